//! The table of the promises. To add one: a file in `promises/` with a `PROMISE`, and its name here.

mod r1;
mod r10;
mod r11;
mod r12;
mod r13;
mod r14;
mod r15;
mod r16;
mod r2;
mod r3;
mod r4;
mod r5;
mod r6;
mod r7;
mod r8;
mod r9;

use crate::promise::Promise;

/// Every promise that can be tried, in the order of the table.
pub const ALL: &[Promise] = &[
    r1::PROMISE,
    r2::PROMISE,
    r3::PROMISE,
    r4::PROMISE,
    r5::PROMISE,
    r6::PROMISE,
    r7::PROMISE,
    r8::PROMISE,
    r9::PROMISE,
    r10::PROMISE,
    r11::PROMISE,
    r12::PROMISE,
    r13::PROMISE,
    r14::PROMISE,
    r15::PROMISE,
    r16::PROMISE,
];

/// Those that are tried only if they are named: they take too long for everybody who changes something.
pub const LONG: &[Promise] = &[r11::SLOW];
