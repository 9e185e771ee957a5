//! Groups keys by slot: on a cluster the keys of one command must be in one slot.

/// Returns the slot of a key: by its hash tag if it has one, which is what stands in its first braces
/// and is not empty.
#[cfg(feature = "redis-cluster")]
pub(super) fn slot_of(key: &[u8]) -> u16 {
    let position = |part: &[u8], byte| part.iter().position(|other| *other == byte);
    let tag = position(key, b'{').and_then(|open| {
        let after = &key[open + 1..];
        position(after, b'}').filter(|length| *length > 0).map(|length| &after[..length])
    });
    crc16(tag.unwrap_or(key)) % super::cluster::SLOTS
}

/// The CRC that clusters use, which is the one of XMODEM.
#[cfg(feature = "redis-cluster")]
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| (crc << 8) ^ CRC[usize::from((crc >> 8) ^ u16::from(*byte))])
}

#[cfg(feature = "redis-cluster")]
static CRC: [u16; 256] = {
    let mut table = [0; 256];
    let mut byte = 0_u16;
    while byte < 256 {
        let mut crc = byte << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
            bit += 1;
        }
        table[byte as usize] = crc;
        byte += 1;
    }
    table
};

/// Returns the keys' indices in groups that one server can serve at once. Without keys there is no
/// group.
#[cfg(feature = "redis-cluster")]
pub(super) fn by_slot(keys: &[Vec<u8>]) -> Vec<Vec<usize>> {
    let mut groups: std::collections::HashMap<u16, Vec<usize>> = std::collections::HashMap::new();
    for (index, key) in keys.iter().enumerate() {
        groups.entry(slot_of(key)).or_default().push(index);
    }
    groups.into_values().collect()
}

/// Returns all of them as one group, if there are any.
pub(super) fn together(keys: &[Vec<u8>]) -> Vec<Vec<usize>> {
    if keys.is_empty() { Vec::new() } else { vec![(0..keys.len()).collect()] }
}

#[cfg(all(test, feature = "redis-cluster"))]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_specification() {
        assert_eq!(crc16(b"123456789"), 0x31C3);
        // As CLUSTER KEYSLOT of a server says.
        for (key, slot) in [
            ("", 0),
            ("foo", 12182),
            ("{foo}bar", 12182),
            ("x{foo}bar{zap}", 12182),
            ("foo{}{bar}", 8363),
            ("foo{{bar}}zap", 4015),
            ("foo{bar", 15278),
        ] {
            assert_eq!(slot_of(key.as_bytes()), slot, "{key:?}");
        }
    }
}
