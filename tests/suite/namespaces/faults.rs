//! The kinds of machines, and the faults of each: one machine of a kind at a time, so that its other
//! machines can do its work. Machines of different kinds have their faults at the same time.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use super::machine::{Harm, Machine, attend};
use super::servers::Servers;
use crate::chaos::files::Dice;
use crate::chaos::process::log_end;

/// Time after a fault in which its machine must take part again.
const BACK_WITHIN: Duration = Duration::from_secs(120);

/// A process takes part if the ledger has a sign of life that is so young, in seconds. It gives one
/// every 3 s.
const BEATS_WITHIN: u8 = 5;

/// Pause of a kind after a fault, in milliseconds.
const BETWEEN: (u64, u64) = (200, 1_000);

/// How many of 100 faults of a master or a leader are its own, and not those of any machine.
const OF_THE_FIRST: u64 = 60;

/// What a machine is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Ingest,
    Work,
    Summary,
    Redis,
    Database,
}

impl Kind {
    pub const ALL: [Self; 5] = [
        Self::Ingest,
        Self::Work,
        Self::Summary,
        Self::Redis,
        Self::Database,
    ];

    /// How long a fault lasts, in milliseconds: a pause for longer than the others take to replace the
    /// machine, and a kill sometimes.
    fn lasts(self, harm: Harm, dice: &mut Dice) -> Duration {
        let (shortest, longest) = match self {
            // Dead after 10 s without a beat, and taken over within 10 s more.
            Self::Ingest => (22_000, 25_000),
            // Frames of a dead worker are taken over within 8 s.
            Self::Work => (9_000, 12_000),
            // Another one leads within 20 s, by beats of 3 s that are 10 s old.
            Self::Summary => (14_000, 18_000),
            // A replica takes the place of a master within 2 to 3 s.
            Self::Redis => (4_000, 8_000),
            // The cluster goes on without a node after 5 s, and the engine leaves a server that does
            // not answer after 15 s.
            Self::Database => (15_000, 17_000),
        };
        let (shortest, longest) = match harm {
            // Before its cluster has noticed, a node that starts again is in the way of itself for half
            // a minute.
            Harm::Kill if self == Self::Database => (6_000, 10_000),
            Harm::Kill if !dice.percent(20) => (0, 3_000),
            _ => (shortest, longest),
        };
        Duration::from_millis(dice.between(shortest, longest))
    }

    /// The machine that has the next fault: often the one that has a part that others wait for.
    async fn pick(self, machines: &[Machine], servers: &Servers, dice: &mut Dice) -> usize {
        let any = dice.below(machines.len() as u64) as usize;
        if !dice.percent(OF_THE_FIRST) {
            return any;
        }
        let (before, after) = (0..any, any..machines.len());
        let mut all = after.chain(before);
        match self {
            Self::Redis => all.find(|at| servers.is_master(*at)).unwrap_or(any),
            Self::Summary => {
                let leader = "SELECT node FROM ingest_leases";
                let leaders: Vec<String> = servers.ask_database(leader).await;
                let leads = |at: &usize| leaders.contains(&machines[*at].process.name);
                all.find(leads).unwrap_or(any)
            }
            Self::Ingest | Self::Work | Self::Database => any,
        }
    }

    /// Whether all machines of the kind take part.
    pub async fn is_whole(self, machines: &[Machine], servers: &Servers) -> bool {
        if !machines.iter().all(|machine| machine.process.is_running()) {
            return false;
        }
        match self {
            Self::Redis => servers.queue_is_whole(),
            Self::Database => servers.database_is_whole().await,
            Self::Ingest | Self::Work | Self::Summary => {
                let alive = format!(
                    "SELECT node FROM ingest_nodes WHERE beat_at > UTC_TIMESTAMP(6) - INTERVAL \
                     {BEATS_WITHIN} SECOND"
                );
                let alive: Vec<String> = servers.ask_database(&alive).await;
                let lives = |machine: &Machine| alive.contains(&machine.process.name);
                machines.iter().all(lives)
            }
        }
    }
}

/// How often each kind of machine had each fault.
#[derive(Default)]
pub struct Counts(BTreeMap<(Kind, Harm), u64>);

impl Counts {
    pub fn add(&mut self, other: Self) {
        for (fault, times) in other.0 {
            *self.0.entry(fault).or_default() += times;
        }
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:10}{:>8}{:>8}{:>8}", "", "killed", "paused", "cut off")?;
        for kind in Kind::ALL {
            write!(f, "{:10}", format!("{kind:?}").to_lowercase())?;
            for harm in Harm::ALL {
                write!(f, "{:8}", self.0.get(&(kind, harm)).unwrap_or(&0))?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// Causes each fault of a kind so many times, in a random order. At the end, all its machines take
/// part.
///
/// # Errors
/// A machine does not come back.
pub async fn torment(
    kind: Kind,
    machines: &mut [Machine],
    servers: &Servers,
    rounds: u64,
    mut dice: Dice,
) -> Result<Counts, String> {
    let mut counts = Counts::default();
    for _ in 0..rounds {
        let mut harms = Harm::ALL.to_vec();
        while !harms.is_empty() {
            let harm = harms.swap_remove(dice.below(harms.len() as u64) as usize);
            strike(kind, harm, machines, servers, &mut dice).await?;
            *counts.0.entry((kind, harm)).or_default() += 1;
            let (shortest, longest) = BETWEEN;
            let pause = Duration::from_millis(dice.between(shortest, longest));
            attend(machines, None, pause).await;
        }
    }
    Ok(counts)
}

/// Causes one fault, ends it, and waits until all machines of the kind take part.
async fn strike(
    kind: Kind,
    harm: Harm,
    machines: &mut [Machine],
    servers: &Servers,
    dice: &mut Dice,
) -> Result<(), String> {
    let at = loop {
        let at = kind.pick(machines, servers, dice).await;
        if machines[at].begin(harm) {
            break at;
        }
        attend(machines, None, Duration::from_millis(100)).await;
    };
    let lasts = kind.lasts(harm, dice);
    attend(machines, (harm != Harm::CutOff).then_some(at), lasts).await;
    machines[at].end(harm);
    let ended = Instant::now();
    while !kind.is_whole(machines, servers).await {
        if ended.elapsed() >= BACK_WITHIN {
            let logs = machines.iter().map(|machine| {
                let end = log_end(&machine.log, 20);
                format!("{}\n{end}\n", machine.process.name)
            });
            let logs: String = logs.collect();
            let name = &machines[at].process.name;
            return Err(format!(
                "{kind:?} is not whole {BACK_WITHIN:?} after {harm:?} of {name} for {lasts:?}\n{logs}"
            ));
        }
        attend(machines, None, Duration::from_millis(200)).await;
    }
    Ok(())
}
