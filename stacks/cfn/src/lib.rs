//! The stack language: typed values, handles, stacks and assemblies that render CloudFormation.
//!
//! Nothing here knows a service by name, but for the rules of [`check`]. A resource is whatever implements
//! [`Resource`]; the generated vocabulary in `cfn-resources` does. Rendering is pure: no clock, network, environment variable or random
//! source, and the same inputs give the same bytes.
//!
//! ```
//! use cfn::{App, AppProperties, StackProperties, Value};
//!
//! let mut app = App::new(AppProperties::new("dev", "111111111111", "eu-west-1", "floodgate-dev"));
//! let stack = app.stack("network", StackProperties::default());
//! stack.scope().output("Region", Value::<String>::region(), "Where this stack is.");
//! let assembly = app.synth().unwrap();
//! assert_eq!(assembly.manifest.stacks[0].name, "floodgate-dev-network");
//! ```

mod app;
pub mod architecture;
pub mod assembly;
pub mod assertions;
mod canonical;
pub mod check;
pub mod diff;
mod intrinsic;
mod resource;
pub mod schema;
mod scope;
mod stack;
mod synth;
mod value;

pub use app::{
    App, AppProperties, CacheSystem, ClusterManifest, DeployValue, Flow, HelmRelease, Load, StreamSystem,
    System, Workload,
};
pub use assembly::Assembly;
pub use canonical::{to_canonical_bytes, to_canonical_string};
pub use intrinsic::{Condition, ConditionExpression, Reference, is_intrinsic, references};
pub use resource::{AnyResource, Handle, RawHandle, Removal, Resource, TagKind, TagShape};
pub use scope::{AT_RUN_TIME, Scope};
pub use stack::{Lookup, Parameter, ParameterType, Provenance, Stack, StackProperties, Waiver};
pub use synth::SynthError;
pub use value::{IdKind, IntoValue, Json, Literal, Property, Text, Value};
