//! Compiles `proto/` without `protoc`: protox parses it, tonic generates from the result.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = "../../proto";
    println!("cargo::rerun-if-changed={root}");
    let files =
        ["control", "enrolment", "transfer"].map(|name| format!("filepull/v1/{name}.proto"));
    let descriptors = protox::compile(files, [root])?;
    // `bytes` fields become `Bytes`: a received chunk is a view of the receive buffer, not a copy.
    let build = tonic_prost_build::configure().bytes(".").codec_path("crate::codec::SmallCodec");
    build.compile_fds(descriptors)?;
    Ok(())
}
