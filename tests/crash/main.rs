//! Crash tests with the real process: whatever ends it, and whatever its files become, what was acknowledged is
//! there after the next start, or the start is refused. Seeds are printed and taken from `DECKLOG_CRASH_SEED`.

mod process;

use process::Member;

#[tokio::test]
async fn starts_again() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let member = Member::new(&folder.path().join("data"));
    member.start().await.kill();
    member.start().await.kill();
}
