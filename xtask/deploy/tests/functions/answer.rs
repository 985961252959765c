//! A function that speaks Lambda's runtime API with the standard library alone, so that a test can compile it in a
//! second. It answers with `ANSWER`, which the compiler is given, or fails when that begins with `fail`.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
};

fn main() {
    let api = std::env::var("AWS_LAMBDA_RUNTIME_API").expect("Lambda starts this");
    loop {
        let (id, _) = call(&api, "GET", "invocation/next", "");
        let answer = env!("ANSWER");
        if answer.starts_with("fail") {
            eprintln!("about to {answer}");
            let error = format!("{{\"errorType\":\"Refused\",\"errorMessage\":\"{answer}\"}}");
            call(&api, "POST", &format!("invocation/{id}/error"), &error);
        } else {
            call(&api, "POST", &format!("invocation/{id}/response"), &format!("\"{answer}\""));
        }
    }
}

/// The request id that the answer names, and its body.
fn call(api: &str, method: &str, path: &str, body: &str) -> (String, String) {
    let mut stream = TcpStream::connect(api).expect("the runtime API listens");
    let length = body.len();
    write!(
        stream,
        "{method} /2018-06-01/runtime/{path} HTTP/1.1\r\nHost: {api}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
    .expect("the runtime API reads");
    let mut reader = BufReader::new(stream);
    let (mut id, mut line) = (String::new(), String::new());
    while reader.read_line(&mut line).expect("the runtime API answers") > 2 {
        if let Some((name, value)) = line.split_once(':') {
            if name.eq_ignore_ascii_case("Lambda-Runtime-Aws-Request-Id") {
                id = value.trim().to_owned();
            }
        }
        line.clear();
    }
    let mut body = String::new();
    let _ = reader.read_to_string(&mut body);
    (id, body)
}
