//! Files as other tools make them: files of a supported format load, and the format of the others
//! is named.

use std::fs;

use super::*;
use crate::support::program;

/// The command that writes a file, and the outcome of the file: the number of rows, or words of the
/// reason. `all` holds ten records, `split_*` is ten files of one record.
const TABLE: [(&str, Result<u64, &str>); 27] = [
    ("cat all", Ok(10)),
    ("gzip -c all", Ok(10)),
    ("gzip -c all; head -c 512 /dev/zero", Ok(10)),
    ("gzip -c all; gzip -c </dev/null", Ok(10)),
    ("zstd -q -19 -c all", Ok(10)),
    ("pzstd -q -c all", Ok(10)),
    (
        "printf '\\120\\052\\115\\030\\004\\0\\0\\0abcd'; zstd -q -c all",
        Ok(10),
    ),
    ("zstd -q --long=26 -c <all", Ok(10)),
    (
        "zstd -q --long=31 -c <all",
        Err("a window of 2147483648 bytes"),
    ),
    ("zstd -q -D dictionary -c all", Err("with the dictionary")),
    ("bzip2 -c all", Ok(10)),
    ("head -n 4 all | bzip2; tail -n 6 all | bzip2", Ok(10)),
    ("bzip2 -c all; head -c 512 /dev/zero", Ok(10)),
    ("xz -c all", Ok(10)),
    ("xz -9e --check=sha256 -c all", Ok(10)),
    ("xz --threads=2 --block-size=500 -c all", Ok(10)),
    (
        "xz --lzma2=dict=1GiB -c all",
        Err("raise memory_budget, or recompress it with `xz -6`"),
    ),
    ("xz --format=lzma -c all", Err("it is lzma")),
    ("lz4 -q -c all", Ok(10)),
    ("lz4 -q -9 -B7 -BD -BX --content-size -c all", Ok(10)),
    ("lz4 -q -l -c all", Err("it is lz4 in its legacy format")),
    ("gzip -c all | gzip -c", Err("compressed twice")),
    ("iconv -t UTF-16 all", Err("it is UTF-16")),
    ("iconv -t UTF-16LE all", Err("it is UTF-16LE")),
    ("iconv -t UTF-32 all", Err("it is UTF-32")),
    (
        "openssl enc -aes-256-cbc -pbkdf2 -pass pass:x -in all",
        Err("encrypted (openssl)"),
    ),
    (
        "gpg --homedir . --batch --passphrase x --pinentry-mode loopback -c -o - all",
        Err("encrypted (OpenPGP)"),
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn files_of_other_tools_load_or_their_format_is_named() {
    let made = tempfile::tempdir().unwrap();
    let shell = |script: &str| shell(made.path(), script);
    for tool in [
        "zstd", "pzstd", "bzip2", "xz", "lz4", "iconv", "openssl", "gpg",
    ] {
        program(tool);
    }
    let records: Vec<String> = (0..2_000).map(record).collect();
    fs::write(made.path().join("samples"), records.join("\n")).unwrap();
    shell("split -l 100 samples sample_; zstd -q --train sample_* -o dictionary --maxdict=1024");
    let pair = embedded().await;
    pair.expect(0, &["migrate"]);
    for (at, (script, becomes)) in TABLE.iter().enumerate() {
        // Each file has other records: the same content would be a duplicate.
        let all: String = (0..10)
            .map(|n| record(format!("{at}-{n}")) + "\n")
            .collect();
        fs::write(made.path().join("all"), all).unwrap();
        let name = format!("vehicle_status_{at}.json");
        fs::write(pair.at("inbound").join(&name), shell(script)).unwrap();
        let before = rows(&pair).await;
        match becomes {
            Ok(expected) => {
                pair.expect(0, &["load"]);
                assert_eq!(rows(&pair).await - before, *expected, "{script}");
            }
            Err(words) => {
                pair.expect(2, &["load"]);
                let reason = pair.at("quarantine").join(format!("{name}.reason"));
                let reason = fs::read_to_string(reason).unwrap();
                assert!(reason.contains(words), "{script}: {reason}");
                assert!(!reason.contains("damaged"), "{script}: {reason}");
            }
        }
    }
}
