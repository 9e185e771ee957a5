//! The types that are keys: text, bytes, integers, addresses, and tuples of them.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::{Exempt, ExemptIfNone, KeyPart, KeyParts, ToKey};

impl<T: ToKey + ?Sized> ToKey for &T {
    #[inline]
    fn to_key(&self) -> KeyParts<'_> {
        (**self).to_key()
    }
}

impl<T: ToKey> ToKey for ExemptIfNone<T> {
    fn to_key(&self) -> KeyParts<'_> {
        self.0.as_ref().map_or(KeyParts::EXEMPT, ToKey::to_key)
    }
}

impl ToKey for KeyParts<'_> {
    #[inline]
    fn to_key(&self) -> KeyParts<'_> {
        *self
    }
}

impl ToKey for Exempt {
    fn to_key(&self) -> KeyParts<'_> {
        KeyParts::EXEMPT
    }
}

macro_rules! key_of_bytes {
    ($method:ident: $($name:ty),*) => {$(
        impl ToKey for $name {
            #[inline]
            fn to_key(&self) -> KeyParts<'_> {
                KeyParts::one(KeyPart::bytes(self.$method()))
            }
        }
    )*};
}

key_of_bytes!(as_bytes: str, String, Box<str>, Cow<'_, str>);
key_of_bytes!(as_ref: [u8], Vec<u8>, Box<[u8]>, Cow<'_, [u8]>);

macro_rules! key_of_shared {
    ($($name:ty),*) => {$(
        impl ToKey for Arc<$name> {
            #[inline]
            fn to_key(&self) -> KeyParts<'_> {
                (**self).to_key()
            }
        }
    )*};
}

key_of_shared!(str, String, [u8], Vec<u8>);

impl<const N: usize> ToKey for [u8; N] {
    #[inline]
    fn to_key(&self) -> KeyParts<'_> {
        KeyParts::one(KeyPart::bytes(self))
    }
}

macro_rules! key_of_inline {
    ($method:ident: $($name:ty),*) => {$(
        impl ToKey for $name {
            #[inline]
            fn to_key(&self) -> KeyParts<'_> {
                KeyParts::one(KeyPart::inline(self.$method()))
            }
        }
    )*};
}

key_of_inline!(to_be_bytes: u8, u16, u32, u64, u128, usize, i8, i16, i32, i64, i128, isize);
key_of_inline!(octets: Ipv4Addr, Ipv6Addr);

impl ToKey for IpAddr {
    fn to_key(&self) -> KeyParts<'_> {
        match self {
            Self::V4(address) => address.to_key(),
            Self::V6(address) => address.to_key(),
        }
    }
}

macro_rules! key_of_tuple {
    ($($name:ident $index:tt),*) => {
        impl<$($name: ToKey),*> ToKey for ($($name,)*) {
            /// An exempt part makes the key exempt.
            fn to_key(&self) -> KeyParts<'_> {
                KeyParts::join([$(self.$index.to_key()),*])
            }
        }
    };
}

key_of_tuple!(A 0, B 1);
key_of_tuple!(A 0, B 1, C 2);
key_of_tuple!(A 0, B 1, C 2, D 3);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_key_gives_its_bytes() {
        let bytes =
            |key: &dyn ToKey| key.to_key().as_slice().unwrap().unwrap()[0].as_bytes().to_vec();
        assert_eq!(bytes(&"a"), b"a");
        assert_eq!(bytes(&String::from("a")), b"a");
        assert_eq!(bytes(b"a"), b"a");
        assert_eq!(bytes(&Arc::<str>::from("a")), b"a");
        assert_eq!(bytes(&258u16), [1, 2]);
        assert_eq!(bytes(&IpAddr::from([1, 2, 3, 4])), [1, 2, 3, 4]);
        assert_eq!(bytes(&Ipv6Addr::LOCALHOST), Ipv6Addr::LOCALHOST.octets());
        assert_eq!(bytes(&ExemptIfNone(Some("a"))), b"a");
        assert!(Exempt.to_key().as_slice().unwrap().is_none());
        assert!(ExemptIfNone(None::<&str>).to_key().as_slice().unwrap().is_none());
        assert!((("a", "b"), ("c", "d"), "e").to_key().as_slice().is_err());
        assert!(("a", Exempt).to_key().as_slice().unwrap().is_none());
    }
}
