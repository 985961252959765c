//! Address blocks: how a VPC's block is divided among its subnets.

use std::{fmt, net::Ipv4Addr, str::FromStr};

/// An IPv4 block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    base: u32,
    prefix: u8,
}

/// A text that is no IPv4 block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotABlock(String);

impl fmt::Display for NotABlock {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "`{}` is not an IPv4 block such as 10.0.0.0/16", self.0)
    }
}

impl std::error::Error for NotABlock {}

impl FromStr for Block {
    type Err = NotABlock;

    fn from_str(text: &str) -> Result<Self, NotABlock> {
        let refused = || NotABlock(text.to_owned());
        let (base, prefix) = text.split_once('/').ok_or_else(refused)?;
        let base: Ipv4Addr = base.parse().map_err(|_| refused())?;
        let prefix: u8 = prefix.parse().ok().filter(|prefix| *prefix <= 32).ok_or_else(refused)?;
        let base = u32::from(base);
        // Bits beyond the prefix would be silently dropped by AWS.
        if prefix < 32 && base & (u32::MAX >> prefix) != 0 {
            return Err(refused());
        }
        Ok(Self { base, prefix })
    }
}

impl fmt::Display for Block {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", Ipv4Addr::from(self.base), self.prefix)
    }
}

impl Block {
    /// 10.0.0.0/16.
    pub const PRIVATE: Self = Self { base: 0x0a00_0000, prefix: 16 };

    /// How many bits are fixed.
    #[must_use]
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// The block of that prefix length at that position in this one; `None` when it does not fit.
    #[must_use]
    pub fn subdivide(self, prefix: u8, position: u32) -> Option<Self> {
        if prefix < self.prefix || prefix > 32 {
            return None;
        }
        let count = 1u64 << (prefix - self.prefix);
        if u64::from(position) >= count {
            return None;
        }
        let size = 1u64 << (32 - prefix);
        let base = u64::from(self.base) + u64::from(position) * size;
        Some(Self { base: u32::try_from(base).ok()?, prefix })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn parts_of_a_block_do_not_overlap(second in any::<u8>(), a in 0u32..256, b in 0u32..256) {
            let block: Block = format!("10.{second}.0.0/16").parse().unwrap();
            let (first, other) = (block.subdivide(24, a).unwrap(), block.subdivide(24, b).unwrap());
            prop_assert_eq!(first == other, a == b);
            prop_assert_eq!(first.base & 0xffff_0000, block.base);
            prop_assert_eq!(first.to_string().parse::<Block>().unwrap(), first);
        }
    }

    #[test]
    fn what_is_no_block_is_refused() {
        for text in ["10.0.0.0", "10.0.0.0/33", "10.0.0.1/16", "ten/8", ""] {
            assert!(text.parse::<Block>().is_err(), "{text}");
        }
        assert_eq!("10.0.0.0/16".parse::<Block>().unwrap().subdivide(20, 16), None);
    }
}
