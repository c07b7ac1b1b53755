//! What a server does beside the puts that are measured.

use std::time::{Duration, Instant};

use crate::client;
use crate::load::Load;
use crate::options::Options;
use crate::servers::Cluster;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Busy {
    Range,
    Defragment,
    Compaction,
}

impl Busy {
    pub const ALL: [Self; 3] = [Self::Range, Self::Defragment, Self::Compaction];

    /// On a store of so many keys.
    pub fn name(self, keys: u64) -> String {
        match self {
            Self::Range => format!("a range of {keys} keys"),
            Self::Defragment => "Defragment".to_owned(),
            Self::Compaction => format!("a compaction of {keys} revisions"),
        }
    }

    /// Once; what can be done again goes on for as long as a measurement takes, so that there are enough puts to tell their p99.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn run(self, cluster: &Cluster, tool: &str, options: &Options) -> Result<Duration, String> {
        let member = client::channel(&cluster.first()?.endpoint())?;
        let keys = options.keys.to_string();
        let args = ["range-many", "--keys", &keys, "--clients", "1", "--connections", "1", "--warm-up", "0"];
        let range = Load::new(cluster, tool, &args).seconds(options.seconds);
        let revision = client::known_revision(&member).await?;
        let began = Instant::now();
        match self {
            Self::Range => drop(range.run_beside().await?),
            Self::Compaction => client::compact(&member, revision).await?,
            Self::Defragment => {
                while began.elapsed().as_secs_f64() < options.seconds {
                    client::defragment(&member).await?;
                }
            }
        }
        Ok(began.elapsed())
    }
}
