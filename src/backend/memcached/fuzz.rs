//! What the targets of `fuzz/` hold true of this backend: see [`crate::fuzz`].

/// The name of what is stored.
#[cfg(feature = "redis")]
pub(crate) fn name(named: &crate::fuzz::Named) -> String {
    use super::keys;
    match named {
        crate::fuzz::Named::Lock(name) => keys::of_lock("app", name),
        _ => named.with_key(|key| keys::of_key("app", key)).expect("it has a key"),
    }
}

#[cfg(unix)]
pub(crate) use self::replies::reply;

#[cfg(unix)]
mod replies {
    use std::future::{Future, poll_fn};
    use std::pin::pin;
    use std::task::Poll;
    use std::time::Duration;

    use tokio::io::AsyncWriteExt;
    use tokio::net::UnixStream;
    use tokio::runtime::Runtime;

    use super::super::connection::{CallFailure, Failed, ServerConnection};
    use super::super::protocol::{Command, Reply, StoredItem};
    use super::super::reply::{NoReply, ReplyCheck};
    use super::super::stream::Socket;
    use crate::clock::monotonic_now;

    const COMMANDS: [Command<'_>; 8] = [
        Command::GetsMany(&["a", "b"]),
        Command::StoreMany(&[
            StoredItem { key: "a", value: b"x", version: Some(1), exptime: 0 },
            StoredItem { key: "b", value: b"x", version: None, exptime: 0 },
        ]),
        Command::Gets("a"),
        Command::GetMany(&["a", "b"]),
        Command::Add { key: "a", value: b"x", exptime: 0 },
        Command::Cas { key: "a", value: b"x", version: 1, exptime: 0 },
        Command::Version,
        Command::FlushAll,
    ];

    /// See [`crate::fuzz::memcached_reply`].
    pub(crate) fn reply(bytes: &[u8]) {
        let Some(([which, cut], reply)) = bytes.split_first_chunk() else { return };
        let command = &COMMANDS[usize::from(*which) % COMMANDS.len()];
        let pieces = reply.split_at(usize::from(*cut) % (reply.len() + 1));
        let checked = check(command, [reply]);
        assert_eq!(check(command, [pieces.0, pieces.1]), checked, "in two pieces");
        assert_eq!(check(command, reply.chunks(1)), checked, "byte by byte");
        let answer = ask(command, pieces);
        match checked {
            // Whether the client has seen that there is more depends on what it read at once.
            Err(NoReply::Garbled("more than the answer")) => {}
            Ok(true) => match answer {
                Ok(_) => {}
                // A line of which only the beginning is looked at, and is no text.
                Err(Failed { failure: CallFailure::NoReply(NoReply::Garbled(_)), .. })
                    if matches!(command, Command::Version) => {}
                other => panic!("it is whole and fits {command:?}: {other:?}"),
            },
            Ok(false) | Err(_) => assert!(answer.is_err(), "{command:?}: {checked:?}, {answer:?}"),
        }
    }

    /// Returns whether a reply is whole, when it comes in such pieces.
    fn check<'a>(
        command: &Command<'_>,
        pieces: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<bool, NoReply> {
        let mut reply = ReplyCheck::to(command);
        let _ = pieces.into_iter().try_for_each(|piece| reply.pass(piece));
        let is_whole = reply.is_whole();
        reply.into_no_answer().map_or(Ok(is_whole), Err)
    }

    /// Sends a command to a server that says that, and no more.
    fn ask(command: &Command<'_>, (head, tail): (&[u8], &[u8])) -> Result<Reply, Failed> {
        thread_local! {
            static RUNTIME: Runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
        }
        let exchange = async {
            let (client, mut server) = UnixStream::pair().expect("two sockets");
            let mut connection = ServerConnection::new(Socket::Unix(client));
            let deadline = monotonic_now() + Duration::from_secs(3600);
            let mut asking = pin!(connection.execute(command, deadline));
            // What a socket buffers is more than a target is given.
            server.write_all(head).await.expect("there is room");
            // Once to send the command, and once the runtime has seen that something came, to read it.
            for _ in 0..2 {
                let polled = poll_fn(|cx| Poll::Ready(asking.as_mut().poll(cx))).await;
                if let Poll::Ready(answer) = polled {
                    return answer;
                }
                tokio::task::yield_now().await;
            }
            server.write_all(tail).await.expect("there is room");
            server.shutdown().await.expect("it is open");
            asking.await
        };
        RUNTIME.with(|runtime| runtime.block_on(exchange))
    }
}
