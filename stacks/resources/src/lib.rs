//! The L1 vocabulary, generated from CloudFormation's resource schemas.
