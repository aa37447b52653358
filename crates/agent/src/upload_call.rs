//! The call of the `Upload` rpc, and its outcome.

use filepull_core::human;
use filepull_core::problem::Problem;
use filepull_proto::answered;
use filepull_proto::v1::agent_transfer_client::AgentTransferClient;
use filepull_proto::v1::upload_response::Kind as FromServer;
use filepull_proto::v1::{self, ErrorCode};
use tokio_stream::Stream;
use tonic::transport::Channel;

use crate::error_text;
use crate::server_answers::AnswerSender;

/// Why an upload did not end with `Stored`.
pub(crate) enum UploadError {
    /// The agent or the server rejects the file as it is.
    Rejected(Problem),
    /// The network failed: another attempt can succeed.
    Failed(String),
}

/// Calls the rpc, passes the answers of the server to the reader, and waits for the final response.
pub(crate) async fn call_upload(
    channel: Channel,
    requests: impl Stream<Item = v1::UploadRequest> + Send + 'static,
    answers: AnswerSender,
) -> Result<v1::Stored, UploadError> {
    let failed =
        |status: tonic::Status| UploadError::Failed(error_text::connection_error(&status).text);
    let mut client = AgentTransferClient::new(channel).max_decoding_message_size(64 * 1024);
    let mut responses = client.upload(requests).await.map_err(failed)?.into_inner();
    loop {
        match responses.message().await.map_err(failed)?.map(|message| message.kind) {
            Some(Some(FromServer::Stored(stored))) => return Ok(stored),
            Some(Some(FromServer::Error(error))) if error.code() == ErrorCode::UnknownTransfer => {
                // This connection leads to another server than the session.
                let text = human::printable(&error.message, 200);
                let reason = format!("the server does not know the transfer: {text}");
                return Err(UploadError::Failed(reason));
            }
            Some(Some(FromServer::Error(error))) => {
                return Err(UploadError::Rejected(answered(&error)));
            }
            Some(Some(FromServer::Ack(ack))) => answers.ack(ack),
            Some(Some(FromServer::Blocks(blocks))) => answers.blocks(blocks).await,
            Some(None) => {}
            None => {
                let reason = "the server closed the stream without a response";
                return Err(UploadError::Failed(reason.to_owned()));
            }
        }
    }
}
