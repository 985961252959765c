//! Environment to stacks: one module a stack.
