//! Keys, and the order in which they come.

/// What a key looks like.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// 11 bytes, as `key:0000042`.
    Short,
    /// 40 bytes, as the token of a session.
    Long,
    /// Two parts of 4 and 8 bytes, joined to 13.
    ShortParts,
    /// Two parts of 11 and 12 bytes, joined to 24.
    LongParts,
    /// A UUID as text, 36 bytes.
    Uuid,
    /// An IPv6 address as text, 38 bytes.
    Ipv6,
    /// 64 bytes, as a digest in hexadecimal.
    Token,
    /// A tenant of 8 bytes and a user's UUID of 36, joined to 45.
    TenantUser,
}

impl Shape {
    /// The key of that number; several parts are joined by a colon.
    pub(crate) fn key(self, number: usize) -> String {
        let key = match self {
            Self::Short => format!("key:{number:07}"),
            Self::Long => format!("session:{:032x}", mixed(number)),
            Self::ShortParts => format!("t{:03}:u{number:07}", number % 1000),
            Self::LongParts => format!("tenant-{:04}:user-{number:07}", number % 1000),
            Self::Uuid => uuid(number),
            Self::Ipv6 => format!("2001:db8:{}", groups(&format!("{:024x}", mixed(number) >> 32))),
            Self::Token => format!("{:032x}{:032x}", mixed(number), mixed(!number)),
            Self::TenantUser => format!("org-{:04}:{}", number % 1000, uuid(number)),
        };
        debug_assert_eq!(key.len(), [11, 40, 13, 24, 36, 38, 64, 45][self as usize]);
        key
    }

    /// The parts of a joined key. At places that are known beforehand, because a request has them
    /// apart and need not look for the colon.
    #[inline(always)]
    pub(crate) fn parts(self, key: &str) -> (&str, &str) {
        match self {
            Self::LongParts => (&key[..11], &key[12..]),
            Self::TenantUser => (&key[..8], &key[9..]),
            _ => (&key[..4], &key[5..]),
        }
    }
}

fn uuid(number: usize) -> String {
    let digits = format!("{:032x}", mixed(number));
    let cuts = [0..8, 8..12, 12..16, 16..20, 20..32];
    cuts.map(|cut| &digits[cut]).join("-")
}

/// Groups of four digits, with colons between.
fn groups(digits: &str) -> String {
    let groups: Vec<&str> = (0..digits.len()).step_by(4).map(|at| &digits[at..at + 4]).collect();
    groups.join(":")
}

fn mixed(number: usize) -> u128 {
    let number = number as u128 + 1;
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835).rotate_left(64) ^ number
}

/// How often which key comes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spread {
    Uniform,
    /// The k-th of `n` keys about `1 / (k ln n)` of the time.
    Zipf,
}

impl Spread {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Zipf => "zipf",
        }
    }

    /// One of `keys` numbers, from a random one.
    fn pick(self, keys: usize, random: u64) -> usize {
        match self {
            Self::Uniform => ((u128::from(random) * keys as u128) >> 64) as usize,
            Self::Zipf => {
                // A rank, by the inverse of the distribution's integral.
                let unit = (random >> 11) as f64 / (1u64 << 53) as f64;
                let rank = ((keys + 1) as f64).powf(unit) as usize - 1;
                // The hot keys are no neighbours: a prime factor scatters them.
                rank.min(keys - 1) * 7_368_787 % keys
            }
        }
    }
}

/// `length` keys in the order of their use, each a `String` of its own.
///
/// They are allocated in that order, one behind the other, before anything else is: so the processor
/// fetches the next key before it is needed, if it does not hold them all anyway. The key of a request
/// is as hot when a limiter is asked. What is measured is then the limiter's memory, not the key's.
pub(crate) fn stream(shape: Shape, keys: usize, spread: Spread, length: usize) -> Vec<String> {
    let mut random = 0x2545_f491_4f6c_dd1d;
    let mut next = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        // The high bits of a plain xorshift are good, the low ones better after a multiplication.
        u64::wrapping_mul(random, 0x2545_f491_4f6c_dd1d)
    };
    (0..length).map(|_| shape.key(spread.pick(keys, next()))).collect()
}

/// `1000000` as `1,000,000`.
pub(crate) fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}
