//! The stack language: typed values, handles, stacks and assemblies that render CloudFormation.
