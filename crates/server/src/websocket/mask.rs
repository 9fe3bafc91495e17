//! Masking of payloads (RFC 6455, 5.3); the same operation masks and unmasks.

/// Applies `mask` in place to `bytes`, which begin `offset` bytes into their payload.
///
/// Eight bytes at a time, which the compiler widens to what the machine has.
pub(super) fn apply(mask: [u8; 4], offset: usize, bytes: &mut [u8]) {
    let turned: [u8; 8] = std::array::from_fn(|i| mask[(offset + i) & 3]);
    let wide = u64::from_ne_bytes(turned);
    let (chunks, tail) = bytes.as_chunks_mut::<8>();
    for chunk in chunks {
        *chunk = (u64::from_ne_bytes(*chunk) ^ wide).to_ne_bytes();
    }
    for (byte, mask) in tail.iter_mut().zip(turned) {
        *byte ^= mask;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_offset_and_length_equals_the_definition_byte_by_byte() {
        let mask = [0x12, 0x34, 0x56, 0x78];
        for offset in 0..9 {
            for len in 0..40_u8 {
                let plain: Vec<u8> = (0..len).map(|i: u8| i.wrapping_mul(7)).collect();
                let expected: Vec<u8> = plain
                    .iter()
                    .enumerate()
                    .map(|(i, byte)| byte ^ mask[(offset + i) % 4])
                    .collect();
                let mut masked = plain.clone();
                apply(mask, offset, &mut masked);
                assert_eq!(masked, expected, "offset {offset}, length {len}");
            }
        }
    }
}
