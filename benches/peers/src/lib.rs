//! Holds no code: see `benches/`.
