//! What the constructs refuse to compile.

#[test]
fn a_topic_that_no_stack_declares_cannot_be_read() {
    trybuild::TestCases::new().compile_fail("tests/compile/undeclared_topic.rs");
}
