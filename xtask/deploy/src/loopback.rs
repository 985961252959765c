//! What is on this machine and nowhere else: only there may anything go without TLS.

/// Whether a URL, or a `host:port`, is of this machine's loopback.
#[must_use]
pub fn is_loopback(place: &str) -> bool {
    let rest = place.split_once("://").map_or(place, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    // What stands before an `@` names a user, not a host.
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let host = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((inside, _)) => inside,
        None => host.split(':').next().unwrap_or_default(),
    };
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Whether requests to a place are read by nobody else: by TLS, or because they stay on this machine.
#[must_use]
pub fn is_private(url: &str) -> bool {
    url.starts_with("https://") || (url.starts_with("http://") && is_loopback(url))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_this_machine() {
        for here in ["http://127.0.0.1:4566", "127.0.0.1:5000", "http://localhost", "http://[::1]:80/x"] {
            assert!(is_loopback(here), "{here}");
        }
        for elsewhere in [
            "http://127.0.0.1.example.com",
            "http://localhost.example.com",
            "http://127.0.0.1@example.com",
            "http://10.0.0.1",
            "http://[2001:db8::1]",
            "",
        ] {
            assert!(!is_loopback(elsewhere), "{elsewhere}");
        }
        assert!(is_private("https://example.com") && is_private("http://127.0.0.1:1"));
        assert!(!is_private("http://example.com") && !is_private("ftp://127.0.0.1"));
    }
}
