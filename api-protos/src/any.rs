//! Type URLs: naming a message inside an `Any` the way containerd's Go clients do.

use prost::{DecodeError, Message, Name};
use prost_types::Any;

/// Returns `message` as an `Any` whose type URL is the bare message name, as containerd writes it.
pub fn pack<M: Message + Name>(message: &M) -> Any {
    Any {
        type_url: M::full_name(),
        value: message.encode_to_vec(),
    }
}

/// Returns whether `any` holds an `M`, with or without a `type.googleapis.com/` prefix on its type URL.
pub fn is<M: Name>(any: &Any) -> bool {
    any.type_url.rsplit('/').next() == Some(M::full_name().as_str())
}

/// Returns the message in `any` if it is an `M`.
pub fn unpack<M: Message + Name + Default>(any: &Any) -> Option<Result<M, DecodeError>> {
    is::<M>(any).then(|| M::decode(any.value.as_slice()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::containerd::events::TaskExit;

    #[test]
    fn both_forms_of_type_url_are_accepted() {
        let exit = TaskExit {
            container_id: "c1".into(),
            exit_status: 7,
            ..Default::default()
        };
        let mut any = pack(&exit);
        assert_eq!(any.type_url, "containerd.events.TaskExit");
        assert_eq!(unpack::<TaskExit>(&any), Some(Ok(exit.clone())));
        any.type_url = format!("type.googleapis.com/{}", any.type_url);
        assert_eq!(unpack::<TaskExit>(&any), Some(Ok(exit)));
        any.type_url = "containerd.events.TaskStart".into();
        assert_eq!(unpack::<TaskExit>(&any), None);
    }
}
