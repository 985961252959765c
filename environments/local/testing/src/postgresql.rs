//! A PostgreSQL server.

use crate::part::Part;

/// A server of a test's own. It can be killed and started again on its data.
pub struct Postgresql {
    part: Part,
    port: u16,
}

impl Postgresql {
    /// Starts one. It may take a moment until it answers.
    #[track_caller]
    #[must_use]
    pub fn start() -> Self {
        let part = Part::start("postgresql", &[]);
        Self { port: part.port(), part }
    }

    /// Its port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The superuser's name.
    #[must_use]
    pub fn superuser(&self) -> String {
        self.part.told["superuser"].as_str().unwrap().to_owned()
    }

    /// The superuser's password.
    #[must_use]
    pub fn password(&self) -> String {
        self.part.told["password"].as_str().unwrap().to_owned()
    }

    /// Ends it as a machine does that is gone.
    pub fn kill(&mut self) {
        self.part.kill();
    }

    /// Starts it again, at the same port.
    #[track_caller]
    pub fn start_again(&mut self) {
        self.part.start_again(&["--port", &self.port.to_string()]);
    }
}
