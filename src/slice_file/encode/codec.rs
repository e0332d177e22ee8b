//! Compression of pages.

use bytes::Bytes;
use parquet::basic::Compression;
use parquet::errors::{ParquetError, Result};
use zstd::zstd_safe::{CParameter, ParamSwitch};

use crate::cdr::columns::Kind;

/// Parameters of zstd at level 1, for each kind of column, found by measuring (figures in
/// `docs/performance.md`). Zero is the level's default. `TargetLength` is the step after positions
/// without a match; setting it disables the compression of literals unless that is enabled
/// explicitly.
fn zstd_parameters(kind: Kind) -> [CParameter; 4] {
    let (hash_log, min_match, target_length, literals) = match kind {
        Kind::Id => (6, 7, 19, ParamSwitch::Enable),
        Kind::PhoneNumber => (0, 7, 14, ParamSwitch::Enable),
        Kind::Time => (6, 5, 2, ParamSwitch::Enable),
        _ => (0, 0, 0, ParamSwitch::Auto),
    };
    [
        CParameter::HashLog(hash_log),
        CParameter::MinMatch(min_match),
        CParameter::TargetLength(target_length),
        CParameter::LiteralCompressionMode(literals),
    ]
}

/// Compresses pages.
pub(super) enum Codec {
    Zstd {
        compression: Compression,
        /// Whether the level is 1, for which [`zstd_parameters`] apply.
        is_fastest: bool,
        compressor: zstd::bulk::Compressor<'static>,
    },
    Snappy(Box<snap::raw::Encoder>),
    None,
}

impl Codec {
    pub(super) fn try_new(compression: Compression) -> Result<Self> {
        Ok(match compression {
            Compression::ZSTD(level) => {
                let level = level.compression_level();
                Self::Zstd {
                    compression,
                    is_fastest: level == 1,
                    compressor: zstd::bulk::Compressor::new(level)?,
                }
            }
            Compression::SNAPPY => Self::Snappy(Box::new(snap::raw::Encoder::new())),
            Compression::UNCOMPRESSED => Self::None,
            other => {
                let problem = format!("no codec for {other}");
                return Err(ParquetError::General(problem));
            }
        })
    }

    pub(super) fn compression(&self) -> Compression {
        match self {
            Self::Zstd { compression, .. } => *compression,
            Self::Snappy(_) => Compression::SNAPPY,
            Self::None => Compression::UNCOMPRESSED,
        }
    }

    pub(super) fn compress(&mut self, page: &[u8], kind: Kind) -> Result<Bytes> {
        Ok(match self {
            Self::Zstd {
                is_fastest,
                compressor,
                ..
            } => {
                if *is_fastest {
                    for parameter in zstd_parameters(kind) {
                        compressor.set_parameter(parameter)?;
                    }
                }
                compressor.compress(page)?.into()
            }
            Self::Snappy(encoder) => encoder
                .compress_vec(page)
                .map_err(|error| ParquetError::External(Box::new(error)))?
                .into(),
            Self::None => Bytes::copy_from_slice(page),
        })
    }
}

#[cfg(test)]
mod tests {
    use parquet::basic::{GzipLevel, ZstdLevel};

    use super::*;

    #[test]
    fn pages_of_any_kind_of_column_are_compressed_losslessly() {
        let page: Vec<u8> = (0..20_000_u32)
            .flat_map(|i| (i * i / 7).to_le_bytes())
            .collect();
        let zstd = |level| Compression::ZSTD(ZstdLevel::try_new(level).unwrap());
        for compression in [
            zstd(1),
            zstd(3),
            Compression::SNAPPY,
            Compression::UNCOMPRESSED,
        ] {
            let mut codec = Codec::try_new(compression).unwrap();
            assert_eq!(codec.compression(), compression);
            // All columns share one codec.
            for kind in [Kind::Id, Kind::PhoneNumber, Kind::Name, Kind::Id] {
                let compressed = codec.compress(&page, kind).unwrap();
                let again = match compression {
                    Compression::ZSTD(_) => {
                        zstd::bulk::decompress(&compressed, page.len()).unwrap()
                    }
                    Compression::SNAPPY => snap::raw::Decoder::new()
                        .decompress_vec(&compressed)
                        .unwrap(),
                    _ => compressed.to_vec(),
                };
                assert_eq!(again, page, "{compression} {kind:?}");
            }
        }
    }

    #[test]
    fn an_unsupported_compression_is_refused() {
        let error = Codec::try_new(Compression::GZIP(GzipLevel::default())).err();
        assert!(error.unwrap().to_string().contains("no codec for"));
    }
}
