//! One member in one thread under a seed: raft, log, apply, key space and store as they are, on a disk and a store
//! that stop at any call and lose or tear what was not synced. After every crash the state is that of the naive
//! model after an exact prefix of what was proposed, with everything acknowledged in it.
//!
//! `DECKLOG_SIM_RUNS` and `DECKLOG_SIM_SEED` choose how many runs and which.

mod member;
mod model;

use decklog::storage::disk::Fault;
use member::{Disks, Member, Stopped};
use model::{Command, Model};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

const DEFAULT_RUNS: u64 = 300;
const LIVES: usize = 6;
const STEPS: usize = 60;

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

#[test]
fn a_member_that_crashes_anywhere_keeps_what_it_acknowledged() {
    let first = setting("DECKLOG_SIM_SEED").unwrap_or_else(rand::random);
    let runs = setting("DECKLOG_SIM_RUNS").unwrap_or(DEFAULT_RUNS);
    println!("DECKLOG_SIM_SEED={first}");
    let mut lived = Lived::default();
    for run in 0..runs {
        let seed = first.wrapping_add(run);
        live(seed, &mut lived);
    }
    println!("{lived:?}");
    assert!(
        runs < 100 || (lived.crashes > runs && lived.kept_in_doubt > 0 && lived.lost_in_doubt > 0),
        "{lived:?}"
    );
}

/// What the runs have met, so that a test that tests nothing is seen.
#[derive(Debug, Default)]
struct Lived {
    commands: u64,
    crashes: u64,
    /// Commands without an answer that a crash kept, and lost.
    kept_in_doubt: u64,
    lost_in_doubt: u64,
    compactions: u64,
}

/// Several lives of one member, each ended by a crash at a random call.
fn live(seed: u64, lived: &mut Lived) {
    let mut random = SmallRng::seed_from_u64(seed);
    let disks = Disks::default();
    let mut model = Model::default();
    for life in 0..LIVES {
        let context = || format!("seed {seed}, life {life}");
        let mut member = Member::start(&disks).unwrap_or_else(|error| panic!("{}: {error}", context()));
        member.check(&model, &mut random, &context());
        arm(&disks, &mut random);
        let in_doubt = match work(&mut member, &mut model, &mut random, lived, &context) {
            Ok(()) => Vec::new(),
            Err(in_doubt) => in_doubt,
        };
        lived.crashes += 1;
        drop(member);
        disks.log.crash(random.random());
        disks.store.crash(random.random());
        model = settle(&disks, model, &in_doubt, lived, &context());
    }
}

/// Some later call of log or store stops the machine.
fn arm(disks: &Disks, random: &mut SmallRng) {
    if random.random_ratio(2, 3) {
        disks.log.fail_at(random.random_range(0..150), Fault::Stop);
    } else {
        disks.store.fail_at(random.random_range(0..60), Fault::Stop);
    }
}

/// Random work until it is done or the machine stops; then the commands that were not answered, in order.
fn work(
    member: &mut Member,
    model: &mut Model,
    random: &mut SmallRng,
    lived: &mut Lived,
    context: &dyn Fn() -> String,
) -> Result<(), Vec<Command>> {
    let mut asked: Vec<Command> = Vec::new();
    for _ in 0..STEPS {
        let stopped = match random.random_range(0..10) {
            0..=4 => {
                let commands: Vec<_> =
                    (0..random.random_range(1..4)).map(|_| Command::random(random, model)).collect();
                asked.extend(commands.iter().cloned());
                lived.commands += commands.len() as u64;
                member.propose(&commands);
                Ok(())
            }
            5 | 6 => member.persist(),
            7 => member.compact_slice(),
            8 => member.cut_log(),
            _ => Ok(()),
        };
        let answers = stopped.and_then(|()| member.settle());
        match answers {
            Ok(answers) => {
                for answer in answers {
                    let command = asked.remove(0);
                    lived.compactions += u64::from(matches!(command, Command::Compact(_)) && answer.is_ok());
                    let expected = model.apply(&command);
                    assert_eq!(answer, expected, "{}: {command:?}", context());
                }
                if random.random_ratio(1, 10) {
                    member.check(model, random, &context());
                }
            }
            Err(Stopped) => return Err(asked),
        }
    }
    if asked.is_empty() { Ok(()) } else { Err(asked) }
}

/// Starts once more and finds which of the commands in doubt the crash has kept: a prefix of them.
fn settle(disks: &Disks, model: Model, in_doubt: &[Command], lived: &mut Lived, context: &str) -> Model {
    let member = Member::start(disks).unwrap_or_else(|error| panic!("{context}: {error}"));
    let mut candidate = model;
    for kept in 0..=in_doubt.len() {
        if member.is(&candidate) {
            lived.kept_in_doubt += kept as u64;
            lived.lost_in_doubt += (in_doubt.len() - kept) as u64;
            return candidate;
        }
        if let Some(next) = in_doubt.get(kept) {
            // Refused or not: the model then does nothing, as the member.
            drop(candidate.apply(next));
        }
    }
    panic!("{context}: the state after the crash is that of no prefix with everything acknowledged");
}
