//! The table of the promises. To add one: a file in `promises/` with a `PROMISE`, and its name here
//! in place of the words that say it waits.

use crate::promise::Promise;

/// Those that are tried only if they are named: they take too long for everybody who changes something.
pub const LONG: &[Promise] = &[r11::SLOW];

macro_rules! promises {
    ($($module:ident)*) => {
        $(mod $module;)*
        /// Every promise that can be tried, in the order of the table.
        pub const ALL: &[Promise] = &[$($module::PROMISE),*];
    };
}

promises! {
    // R1 Whole or absent.
    r1
    // R2 Nothing is ever overwritten.
    r2
    // R3 Acknowledged means durable.
    r3
    // R4 Exactly once.
    r4
    // R5 End-to-end identity.
    r5
    // R6 One version of the source.
    r6
    // R7 Fresh, or says so.
    r7
    // R8 1,000 triggers cost one transfer.
    r8
    // R9 Honest API.
    r9
    // R10 Cheap interruption.
    r10
    // R11 No silent death.
    r11
    // R12 Two agents, one id, never one file.
    r12
    // R13 Full or failing disk is a clean failure.
    r13
    // R14 Restart is boring.
    r14
    // R15 Many agents reconnect at once.
    r15
    // R16 Provable later.
    r16
}
