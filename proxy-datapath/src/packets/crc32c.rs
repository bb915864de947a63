//! The checksum of SCTP (CRC32c, RFC 9260 appendix A) after a change, without the packet's other bytes.
//!
//! A CRC is linear: if the words of a message change by `x`, its CRC changes by the CRC (begun at 0, without
//! the final inversion) of `x` followed by as many zero bytes as stand behind it. Those zeros are a
//! multiplication by a power of the polynomial's variable, and each bit of their number one by a constant.

/// The Castagnoli polynomial, lowest bit first: bit 31 is the coefficient of 1.
const POLYNOMIAL: u32 = 0x82f6_3b78;
const ONE: u32 = 1 << 31;

/// A product of two polynomials modulo [`POLYNOMIAL`] in the making: one bit of `left` a step.
#[derive(Clone, Copy, Debug)]
struct Product {
    left: u32,
    power: u32,
    sum: u32,
}

impl Product {
    #[inline(always)]
    const fn new(a: u32, b: u32) -> Product {
        Product { left: a, power: b, sum: 0 }
    }

    #[inline(always)]
    const fn advance(&mut self) {
        self.sum ^= self.power & 0_u32.wrapping_sub(self.left >> 31);
        self.left <<= 1;
        self.power = (self.power >> 1) ^ (POLYNOMIAL & 0_u32.wrapping_sub(self.power & 1));
    }
}

/// How a checksum changes, worked out in [`Change::ROUNDS`] rounds: 32 for each bit of the length. Small
/// rounds, and not loops, because the verifier walks each round of a loop, but a function that the kernel
/// calls back only a few times.
#[derive(Clone, Copy, Debug)]
pub struct Change {
    /// The change, moved on over as many zero bytes as the bits of the length until now say.
    moved: Product,
    /// What 2^n zero bytes multiply by, squared, at the n-th bit.
    zeros: Product,
    length: u32,
}

impl Change {
    /// How often [`Change::advance`] is called, with 0, 1, …: the 16 bits of a length, 32 rounds each.
    pub const ROUNDS: u32 = 16 * 32;

    /// Four bytes change by `x` (xor of old and new, as they lie in the packet); `length` bytes stand from
    /// the first of them to the packet's end.
    #[inline(always)]
    pub(crate) const fn new(x: [u8; 4], length: u16) -> Change {
        // x^8
        let byte = 1 << 23;
        let length = length as u32;
        let moved = Product::new(u32::from_le_bytes(x), factor(byte, length));
        Change { moved, zeros: Product::new(byte, byte), length }
    }

    /// One round; they are numbered from 0.
    #[inline(always)]
    pub const fn advance(&mut self, round: u32) {
        self.moved.advance();
        self.zeros.advance();
        if round % 32 == 31 {
            let zeros = self.zeros.sum;
            self.length >>= 1;
            self.moved = Product::new(self.moved.sum, factor(zeros, self.length));
            self.zeros = Product::new(zeros, zeros);
        }
    }

    /// To be xored to the checksum as it lies in the packet, after all rounds.
    #[inline(always)]
    pub(crate) const fn result(&self) -> [u8; 4] {
        self.moved.left.to_le_bytes()
    }
}

/// `zeros` where the lowest bit of `length` is set, else one.
#[inline(always)]
const fn factor(zeros: u32, length: u32) -> u32 {
    let is_set = 0_u32.wrapping_sub(length & 1);
    (zeros & is_set) | (ONE & !is_set)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(x: [u8; 4], length: u16) -> [u8; 4] {
        let mut change = Change::new(x, length);
        (0..Change::ROUNDS).for_each(|round| change.advance(round));
        change.result()
    }

    /// Bit by bit, as the appendix has it.
    fn crc32c(bytes: &[u8]) -> u32 {
        let step = |crc: u32, byte: &u8| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
                (crc >> 1) ^ (POLYNOMIAL & 0_u32.wrapping_sub(crc & 1))
            })
        };
        !bytes.iter().fold(u32::MAX, step)
    }

    #[test]
    fn the_reference_is_right() {
        // RFC 3720 appendix B.4: 32 bytes of zeros.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn a_change_is_the_difference_of_two_whole_sums() {
        let mut seed = 1_u32;
        let mut random = || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 24) as u8
        };
        for length in [4_usize, 5, 12, 28, 127, 128, 1400, 1453, 9000, 65_535] {
            let before: Vec<u8> = (0..length).map(|_| random()).collect();
            let mut after = before.clone();
            let x = [random(), random(), random(), random()];
            after.iter_mut().zip(x).for_each(|(byte, x)| *byte ^= x);
            let expected = crc32c(&before) ^ crc32c(&after);
            assert_eq!(changed(x, length as u16), expected.to_le_bytes(), "{length} bytes");
        }
        assert_eq!(changed([0; 4], 1000), [0; 4]);
    }
}
