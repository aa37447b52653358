//! Settings that are wrong: whoever typed them is told, in words, where they look.

use filepull_e2e::Process;

#[tokio::test]
async fn a_level_that_does_not_exist_is_refused_aloud() -> anyhow::Result<()> {
    for (program, command) in [("e2e-filepull-agent", "run"), ("e2e-filepull", "server")] {
        let settings = [("LOG_LEVEL", "warning".to_owned())];
        let mut process = Process::start(&[], program, command, &settings)?;
        process.says("LOG_LEVEL: \"warning\" is not a level. Did you mean warn?").await?;
        assert_eq!(process.ended().await?.code(), Some(2), "{program}");
    }
    Ok(())
}
