//! Empty: cargo wants a target besides the benches, which are the files beside this one.
