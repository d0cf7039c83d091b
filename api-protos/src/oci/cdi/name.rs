//! Names of devices: `vendor.com/class=name`.

/// Returns whether this is the name of a device, and not, for one, the path of a device node.
pub fn is_qualified(text: &str) -> bool {
    let Some((kind, device)) = text.split_once('=') else {
        return false;
    };
    let parts = split_kind(kind);
    parts.is_some_and(|(vendor, class)| is_kind(vendor) && is_kind(class)) && is_device(device)
}

/// Returns vendor and class of a kind.
pub(super) fn split_kind(kind: &str) -> Option<(&str, &str)> {
    let (vendor, class) = kind.split_once('/')?;
    (!vendor.is_empty() && !class.is_empty()).then_some((vendor, class))
}

/// Returns whether this may be a vendor's name, or a class's.
pub(super) fn is_kind(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_alphabetic()) && is_word(name, "_-.")
}

/// Returns whether this may be the name of a device among those of a kind.
pub(super) fn is_device(name: &str) -> bool {
    is_word(name, "_-.:")
}

/// Returns whether a name begins and ends with a letter or digit, with nothing but such and `others` between.
fn is_word(name: &str, others: &str) -> bool {
    let plain = |letter: char| letter.is_ascii_alphanumeric();
    name.starts_with(plain)
        && name.ends_with(plain)
        && name
            .chars()
            .all(|letter| plain(letter) || others.contains(letter))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_from_paths() {
        for (text, is_name) in [
            ("vendor.com/class=name", true),
            ("v/c=0", true),
            ("vendor.com/c.lass_x-y=gpu:0.1", true),
            ("/dev/null", false),
            ("/dev/a=b", false),
            ("vendor.com/class", false),
            ("vendor.com/class=", false),
            ("=name", false),
            ("vendor.com=name", false),
            ("1vendor.com/class=name", false),
            ("vendor.com/class/x=name", false),
            ("vendor.com/class-=name", false),
            ("vendor.com/class=na me", false),
            ("vendor.com/class=name:", false),
        ] {
            assert_eq!(is_qualified(text), is_name, "{text}");
        }
    }
}
