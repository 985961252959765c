//! The lessons' domain: events, envelope, enrichment. No I/O.
