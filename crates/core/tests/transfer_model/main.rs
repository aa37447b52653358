//! Tests the rules of the core under random failures: the real [`Transfer`], [`ExtentReceiver`] and
//! [`SourceRead`] with models of a disk that loses power, of a server that is killed between any two
//! steps, and of an agent whose file changes while it is read. The agent sends extents of every kind:
//! data, zstd, holes, and copies of the last download, which may be damaged at any time.
//!
//! `world` runs the steps. `oracle` checks the invariants of RELIABILITY.md 3.6 after each step.
//!
//! [`Transfer`]: filepull_core::transfer::Transfer
//! [`ExtentReceiver`]: filepull_core::extent::ExtentReceiver
//! [`SourceRead`]: filepull_core::source::SourceRead

mod agent;
mod disk;
mod live;
mod machine;
mod oracle;
mod server;
mod world;

use filepull_core::source::Consistency;
use proptest::prelude::*;

use agent::{Change, Lie, Mutation, Trace};
use disk::Fate;
use machine::{Failing, Fault};
use world::{Crash, Op, Spoil, Step, World};

/// An operation in which the source does not change and the agent is correct.
fn server_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        1 => Just(Op::Idle),
        2 => any::<bool>().prop_map(|fresh| Op::Trigger { fresh }),
        10 => (1usize..12).prop_map(|n_steps| Op::Deliver { n_steps }),
        2 => Just(Op::DropConnection),
        1 => Just(Op::KillAgent),
        1 => Just(Op::Checkpoint),
        6 => Just(Op::CheckpointStep),
        1 => (1usize..4, any::<bool>())
            .prop_map(|(n_names, same_bytes)| Op::NameTaken { n_names, same_bytes }),
        2 => any::<usize>().prop_map(|pick| Op::StaleUpload { pick }),
    ]
}

fn any_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        16 => server_op(),
        4 => mutation().prop_map(Op::Mutate),
        1 => prop::sample::select(LIES.to_vec()).prop_map(Op::Lie),
        1 => Just(Op::Cancel),
        1 => spoil(),
    ]
}

const LIES: [Lie; 8] = [
    Lie::Digest,
    Lie::Proof,
    Lie::Offset,
    Lie::Gap,
    Lie::Short,
    Lie::Hole,
    Lie::OutsideBase,
    Lie::Stream,
];

/// Damages the last download.
fn spoil() -> impl Strategy<Value = Op> {
    let spoil = prop_oneof![
        2 => any::<usize>().prop_map(|pick| Spoil::Flip { pick }),
        1 => (0usize..80).prop_map(|len| Spoil::Truncate { len }),
    ];
    spoil.prop_map(Op::Spoil)
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let change = prop_oneof![
        4 => (0usize..10, 1usize..4).prop_map(|(from, n_cells)| Change::InPlace { from, n_cells }),
        2 => (1usize..4).prop_map(|n_cells| Change::Append { n_cells }),
        1 => (0usize..10).prop_map(|n_cells| Change::Truncate { n_cells }),
        1 => (0usize..10).prop_map(|n_cells| Change::Replace { n_cells }),
        1 => any::<usize>().prop_map(|pick| Change::Revert { pick }),
    ];
    let trace = prop::sample::select(vec![Trace::Nothing, Trace::SetBack, Trace::Both]);
    (change, trace).prop_map(|(change, trace)| Mutation { change, trace })
}

/// A write that does not grow the file and does not hide its time.
fn plain_write() -> impl Strategy<Value = Op> {
    let change = prop_oneof![
        3 => (0usize..10, 1usize..4).prop_map(|(from, n_cells)| Change::InPlace { from, n_cells }),
        1 => (0usize..10).prop_map(|n_cells| Change::Replace { n_cells }),
    ];
    let trace = prop::sample::select(vec![Trace::SetBack, Trace::Both]);
    (change, trace).prop_map(|(change, trace)| Op::Mutate(Mutation { change, trace }))
}

/// A failure of the disk or of the records in every eighth step.
fn any_fault() -> impl Strategy<Value = Option<Fault>> {
    let what = prop_oneof![
        any::<bool>().prop_map(|durable| Failing::Record { durable }),
        Just(Failing::SyncFile),
        Just(Failing::SyncFolder),
        Just(Failing::Space),
        Just(Failing::Name),
    ];
    let fault =
        (what, 0usize..3, 1usize..4).prop_map(|(what, after, times)| Fault { what, after, times });
    prop::option::weighted(0.125, fault)
}

fn records_fault() -> impl Strategy<Value = Option<Fault>> {
    any_fault().prop_map(|fault| fault.filter(|of| matches!(of.what, Failing::Record { .. })))
}

/// Generates steps. Every fifth step ends in a crash, which may damage a partial with `flip`.
fn story(
    op: impl Strategy<Value = Op>,
    flip: impl Strategy<Value = Option<usize>>,
    fault: impl Strategy<Value = Option<Fault>>,
) -> impl Strategy<Value = Vec<Step>> {
    let power_cut = prop::option::of(any::<u64>().prop_map(Fate));
    // Most operations take two or three disk operations; recoveries and deliveries take more.
    let after = prop_oneof![2 => 0usize..3, 1 => 0usize..12];
    let crash = (after, power_cut, flip).prop_map(|(after, power_cut, flip)| Crash {
        after,
        power_cut,
        flip,
    });
    let parts = (op, prop::option::weighted(0.2, crash), fault);
    let step = parts.prop_map(|(op, crash, fault)| Step { op, crash, fault });
    prop::collection::vec(step, 1..40)
}

fn run(n_cells: usize, links: bool, story: &[Step]) -> World {
    replay(World::new(n_cells, Consistency::DoubleRead, links), story)
}

fn replay(mut world: World, story: &[Step]) -> World {
    world.step(&Step { op: Op::Trigger { fresh: false }, crash: None, fault: None });
    story.iter().for_each(|step| world.step(step));
    world.settle();
    world
}

/// 2,000 cases, or more with `PROPTEST_CASES`.
fn config() -> ProptestConfig {
    let config = ProptestConfig::default();
    ProptestConfig { cases: config.cases.max(2_000), max_shrink_iters: 20_000, ..config }
}

/// Two checkpoints, a lost connection, a changed source, a taken name, and a second transfer.
fn eventful_story() -> Vec<Op> {
    let replace = Mutation { change: Change::Replace { n_cells: 3 }, trace: Trace::Both };
    vec![
        Op::Deliver { n_steps: 4 },
        Op::Checkpoint,
        Op::Deliver { n_steps: 1 },
        Op::Checkpoint,
        Op::DropConnection,
        Op::Deliver { n_steps: 5 },
        Op::Mutate(replace),
        Op::NameTaken { n_names: 1, same_bytes: true },
        Op::DropConnection,
        Op::Deliver { n_steps: 5 },
        Op::Checkpoint,
        Op::Trigger { fresh: true },
        Op::Deliver { n_steps: 6 },
        Op::Deliver { n_steps: 4 },
        Op::Deliver { n_steps: 20 },
    ]
}

/// A second download that copies from the first, with a checkpoint between two copies, and a base that is
/// damaged meanwhile.
fn story_of_a_base(spoiled: Option<Spoil>) -> Vec<Op> {
    let append = Mutation { change: Change::Append { n_cells: 3 }, trace: Trace::Both };
    let change = Mutation { change: Change::InPlace { from: 2, n_cells: 1 }, trace: Trace::Both };
    vec![
        Op::Deliver { n_steps: 30 },
        Op::Mutate(append),
        Op::Trigger { fresh: true },
        Op::Deliver { n_steps: 4 },
        Op::Checkpoint,
        Op::Deliver { n_steps: 1 },
        Op::DropConnection,
        spoiled.map_or(Op::Idle, Op::Spoil),
        Op::Deliver { n_steps: 40 },
        Op::Mutate(change),
        Op::Trigger { fresh: true },
        Op::Deliver { n_steps: 4 },
        spoiled.map_or(Op::Idle, Op::Spoil),
        Op::Deliver { n_steps: 40 },
    ]
}

#[test]
fn a_crash_between_any_two_extents_is_survived_with_a_base_in_any_state() {
    let spoils = [None, Some(Spoil::Truncate { len: 20 }), Some(Spoil::Flip { pick: 3 })];
    for spoiled in spoils {
        for step_idx in 0..story_of_a_base(spoiled).len() {
            for after in 0..30 {
                for power_cut in [None, Some(Fate(0)), Some(Fate(0x5555_5555_5555_5555))] {
                    let crash = Crash { after, power_cut, flip: None };
                    let planned = |(idx, op)| Step {
                        op,
                        crash: (idx == step_idx).then_some(crash),
                        fault: None,
                    };
                    let story: Vec<_> =
                        story_of_a_base(spoiled).into_iter().enumerate().map(planned).collect();
                    let world = run(14, false, &story);
                    assert!(world.all_are_done(), "step {step_idx}, {crash:?}, {spoiled:?}");
                }
            }
        }
    }
}

#[test]
fn a_crash_before_any_single_step_is_survived() {
    let power_cuts = [None, Some(0), Some(u64::MAX), Some(0x5555_5555_5555_5555)];
    for step_idx in 0..eventful_story().len() {
        for after in 0..12 {
            for power_cut in power_cuts.map(|cut| cut.map(Fate)) {
                let crash = Crash { after, power_cut, flip: None };
                survive(step_idx, crash);
            }
        }
    }
}

fn survive(step_idx: usize, crash: Crash) {
    let planned = |(idx, op)| Step { op, crash: (idx == step_idx).then_some(crash), fault: None };
    let story: Vec<_> = eventful_story().into_iter().enumerate().map(planned).collect();
    for links in [false, true] {
        assert!(run(8, links, &story).all_are_done(), "step {step_idx}, {crash:?}");
    }
}

#[test]
fn a_cancelled_transfer_keeps_its_source_and_its_progress() {
    let crash = Crash { after: 0, power_cut: Some(Fate(0)), flip: None };
    for crash in [None, Some(crash)] {
        let story = [
            Step { op: Op::Deliver { n_steps: 4 }, crash: None, fault: None },
            Step { op: Op::Checkpoint, crash: None, fault: None },
            Step { op: Op::Idle, crash, fault: None },
            Step { op: Op::Cancel, crash: None, fault: None },
        ];
        let world = run(8, false, &story);
        let cancelled = world.records().next().expect("one was triggered");
        assert!(cancelled.problem().is_some(), "{cancelled:?}");
        assert!(cancelled.source().is_some() && 0 < cancelled.received(), "{cancelled:?}");
    }
}

#[test]
fn an_upload_that_starts_after_its_own_end_is_rejected() {
    let shrink = Mutation { change: Change::Truncate { n_cells: 1 }, trace: Trace::Both };
    let story = [
        Op::Deliver { n_steps: 4 },
        Op::DropConnection,
        Op::Mutate(shrink),
        Op::Lie(Lie::Proof),
        Op::Deliver { n_steps: 3 },
    ];
    run(4, false, &story.map(|op| Step { op, crash: None, fault: None }));
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn no_fault_breaks_a_promise(
        n_cells in 0usize..10,
        links: bool,
        story in story(any_op(), prop::option::weighted(0.1, any::<usize>()), any_fault()),
    ) {
        run(n_cells, links, &story);
    }

    #[test]
    fn size_and_times_detect_a_writer_that_changes_them(
        n_cells in 0usize..10,
        story in story(prop_oneof![8 => server_op(), 4 => plain_write()], Just(None), any_fault()),
    ) {
        replay(World::new(n_cells, Consistency::Stat, false), &story);
    }

    #[test]
    fn a_file_arrives_despite_a_damaged_base(
        n_cells in 0usize..10,
        story in story(prop_oneof![8 => server_op(), 2 => spoil()], Just(None), Just(None)),
    ) {
        prop_assert!(run(n_cells, false, &story).all_accepted_are_done());
    }

    #[test]
    fn a_file_arrives_despite_crashes_and_failing_records(
        n_cells in 0usize..10,
        links: bool,
        story in story(server_op(), Just(None), records_fault()),
    ) {
        prop_assert!(run(n_cells, links, &story).all_accepted_are_done());
    }
}
