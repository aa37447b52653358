//! The log, and who reads it.

use filepull_e2e::{TestBed, made};

/// Runs a program whose log is read up to the line that contains `last`; then the pipe is closed,
/// as when the program at its other end has ended.
fn read_up_to(last: &str) -> [String; 3] {
    ["sh".into(), "-c".into(), format!("\"$0\" \"$@\" 2>&1 | sed -u '/{last}/q'")]
}

#[tokio::test]
async fn a_log_that_nobody_reads_stops_nothing() -> anyhow::Result<()> {
    let server = read_up_to("server.ready");
    let bed = TestBed::launched_by(&server.each_ref().map(String::as_str), &[]).await?;
    let agent = read_up_to("connected in");
    let agent = agent.each_ref().map(String::as_str);
    let file = made("client4", 1000);
    let mut client = bed.client("client4", &file)?.launched_by(&agent);
    client.connect().await?;
    for _ in 0..2 {
        let download = bed.pull("client4").await?;
        assert_eq!(std::fs::read(download)?, file);
    }
    Ok(())
}
