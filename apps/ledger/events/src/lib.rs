//! The ledger's domain: entities, envelope, identifiers, modes. No I/O.
