//! The structure of JSON text, 64 bytes at a time: quotes, brackets, commas, lines.
//!
//! Knows no records and no rules of files. Uses safe portable vectors of 16 bytes, which every
//! x86-64 and ARM64 processor has: with them, the scan is already as fast as memory. For text that
//! is not JSON, the structure is arbitrary, and nothing panics.

use std::ops::Range;

use wide::u8x16;

/// Bytes of a block: each has one bit in a 64-bit word.
const BLOCK: usize = 64;

type Block = [u8; BLOCK];

/// The bit by which `{` and `}` differ from `[` and `]`.
pub(super) const CURLY: u8 = 0x20;

/// The bounds of an element of an array, or of a member of an object.
#[derive(Clone, Copy, Default)]
pub(super) struct Element {
    /// The place of the comma or the closing bracket after it.
    pub(super) end: usize,
    /// Whether a closing bracket follows it, and not a comma.
    pub(super) is_last: bool,
    /// How many containers it holds, without those within other containers.
    pub(super) containers: u32,
    /// The place of the opening bracket of the last of these containers.
    pub(super) open: usize,
    /// The place of the closing bracket of the last of these containers.
    pub(super) close: usize,
}

/// A cursor over the structure of JSON text: quotes, and the brackets and commas outside of
/// strings.
pub(super) struct Scan<'a> {
    pub(super) bytes: &'a [u8],
    /// Where the current block begins.
    at: usize,
    /// The current block, padded with spaces, if it is the last one and shorter than a block.
    short: Block,
    /// Quotes of the current block that are not escaped.
    quotes: u64,
    /// Brackets outside of strings.
    brackets: u64,
    /// Bytes within strings, with the opening quote and without the closing one.
    strings: u64,
    /// Bytes of the current block that the cursor has not passed.
    ahead: u64,
    /// Whether the first byte of the next block is escaped.
    escape_carry: u64,
    /// All ones where the next block begins in a string.
    string_carry: u64,
}

impl<'a> Scan<'a> {
    /// A scan that begins at `from`, outside of strings.
    pub(super) fn new(bytes: &'a [u8], from: usize) -> Self {
        let mut scan = Self {
            bytes,
            at: from,
            short: [b' '; BLOCK],
            quotes: 0,
            brackets: 0,
            strings: 0,
            ahead: 0,
            escape_carry: 0,
            string_carry: 0,
        };
        scan.load();
        scan
    }

    /// Passes the next quote, bracket or comma that is structure, and returns its place and byte.
    pub(super) fn next(&mut self) -> Option<(usize, u8)> {
        loop {
            let commas = matching(self.block(), b',') & !self.strings;
            let found = (self.quotes | self.brackets | commas) & self.ahead;
            if found != 0 {
                let place = self.at + found.trailing_zeros() as usize;
                self.ahead = above(lowest(found));
                return Some((place, self.bytes[place]));
            }
            if !self.advance() {
                return None;
            }
        }
    }

    /// Passes the elements of an array, or the members of an object, and its closing bracket. The
    /// cursor must be right after the opening bracket. Calls `on_element` at the end of each
    /// element: at each comma between two, and at the closing bracket. Returns the place of the
    /// closing bracket. `None` if the text ends before it.
    #[inline]
    pub(super) fn elements(&mut self, mut on_element: impl FnMut(Element)) -> Option<usize> {
        let mut depth = 0_usize;
        let mut element = Element::default();
        loop {
            let mut brackets = self.brackets & self.ahead;
            if brackets != 0 || depth == 0 {
                // Commas matter only between elements, and most blocks lie within one element. So
                // commas are searched only when they are needed.
                let mut commas = None;
                loop {
                    let bracket = lowest(brackets);
                    if depth == 0 {
                        let commas = *commas
                            .get_or_insert_with(|| matching(self.block(), b',') & !self.strings);
                        let mut between = commas & self.ahead & bracket.wrapping_sub(1);
                        while between != 0 {
                            element.end = self.at + between.trailing_zeros() as usize;
                            on_element(element);
                            element = Element::default();
                            between ^= lowest(between);
                        }
                    }
                    if bracket == 0 {
                        break;
                    }
                    let place = self.at + bracket.trailing_zeros() as usize;
                    self.ahead = above(bracket);
                    brackets ^= bracket;
                    if matches!(self.bytes[place], b'{' | b'[') {
                        if depth == 0 {
                            element.open = place;
                            element.containers += 1;
                        }
                        depth += 1;
                    } else if depth == 0 {
                        element.end = place;
                        element.is_last = true;
                        on_element(element);
                        return Some(place);
                    } else {
                        depth -= 1;
                        element.close = place;
                    }
                }
            }
            if !self.advance() {
                return None;
            }
        }
    }

    /// Goes to the next block, if there is one.
    #[inline]
    fn advance(&mut self) -> bool {
        self.ahead = 0;
        if self.bytes.len() - self.at <= BLOCK {
            return false;
        }
        self.at += BLOCK;
        self.load();
        true
    }

    #[inline]
    fn block(&self) -> &Block {
        self.bytes[self.at..].first_chunk().unwrap_or(&self.short)
    }

    /// Finds the structure of the block at `at`.
    #[inline]
    fn load(&mut self) {
        let bytes = self.bytes;
        let rest = &bytes[self.at..];
        if let Some(block) = rest.first_chunk() {
            self.find_structure(block);
        } else {
            self.short[..rest.len()].copy_from_slice(rest);
            let block = self.short;
            self.find_structure(&block);
        }
    }

    #[inline]
    fn find_structure(&mut self, block: &Block) {
        let escaped = self.escaped(block);
        self.quotes = matching(block, b'"') & !escaped;
        self.strings = prefix_xor(self.quotes) ^ self.string_carry;
        self.string_carry = 0_u64.wrapping_sub(self.strings >> 63);
        self.brackets = brackets(block) & !self.strings;
        self.ahead = u64::MAX;
    }

    /// The bytes that a backslash escapes: each follows a run of an odd number of backslashes.
    #[inline]
    fn escaped(&mut self, block: &Block) -> u64 {
        const EVEN: u64 = 0x5555_5555_5555_5555;
        let carry = self.escape_carry;
        if !contains(block, b'\\') {
            self.escape_carry = 0;
            return carry;
        }
        // A backslash that is itself escaped begins no run.
        let backslashes = matching(block, b'\\') & !carry;
        let after = backslashes << 1 | carry;
        // The addition carries each run that begins at an odd place to the place after its end. The
        // parity of that place is the parity of the run's length.
        let odd_starts = backslashes & !EVEN & !after;
        let (ends, overflow) = odd_starts.overflowing_add(backslashes);
        self.escape_carry = u64::from(overflow);
        (EVEN ^ (ends << 1)) & after
    }
}

/// The lines of a text from `start` on, without their newlines. Text after the last newline is a
/// line unless it is empty.
pub(super) struct Lines<'a> {
    bytes: &'a [u8],
    start: usize,
    block: usize,
    newlines: u64,
}

impl<'a> Lines<'a> {
    pub(super) fn new(bytes: &'a [u8], start: usize) -> Self {
        let mut lines = Self {
            bytes,
            start,
            block: start,
            newlines: 0,
        };
        lines.load();
        lines
    }

    fn load(&mut self) {
        let rest = &self.bytes[self.block..];
        self.newlines = if let Some(block) = rest.first_chunk() {
            matching(block, b'\n')
        } else {
            let mut short = [b' '; BLOCK];
            short[..rest.len()].copy_from_slice(rest);
            matching(&short, b'\n')
        };
    }
}

impl Iterator for Lines<'_> {
    type Item = Range<usize>;

    #[inline]
    fn next(&mut self) -> Option<Range<usize>> {
        while self.newlines == 0 {
            if self.bytes.len() - self.block <= BLOCK {
                let last = self.start..self.bytes.len();
                self.start = self.bytes.len();
                return (!last.is_empty()).then_some(last);
            }
            self.block += BLOCK;
            self.load();
        }
        let end = self.block + self.newlines.trailing_zeros() as usize;
        self.newlines ^= lowest(self.newlines);
        let line = self.start..end;
        self.start = end + 1;
        Some(line)
    }
}

/// Whether a `{` follows a `}` on the same line in this part of a text, with only blanks between
/// them. True also if both are in a string.
pub(super) fn has_neighbours(bytes: &[u8], part: &Range<usize>) -> bool {
    let text = &bytes[..part.end];
    let mut at = part.start;
    loop {
        let rest = &text[at..];
        let mut closing = if let Some(block) = rest.first_chunk() {
            matching(block, b'}')
        } else {
            let mut short = [b' '; BLOCK];
            short[..rest.len()].copy_from_slice(rest);
            matching(&short, b'}')
        };
        while closing != 0 {
            let mut after = at + closing.trailing_zeros() as usize + 1;
            while matches!(text.get(after), Some(b' ' | b'\t' | b'\r')) {
                after += 1;
            }
            if text.get(after) == Some(&b'{') {
                return true;
            }
            closing ^= lowest(closing);
        }
        if rest.len() <= BLOCK {
            return false;
        }
        at += BLOCK;
    }
}

/// The lowest bit of a word. 0 if the word is 0.
const fn lowest(word: u64) -> u64 {
    word & word.wrapping_neg()
}

/// All bits above `bit`.
const fn above(bit: u64) -> u64 {
    !(bit | bit.wrapping_sub(1))
}

/// Sets each bit to the parity of the bits up to and including it. If the bits are quotes, the
/// result marks the inside of strings.
const fn prefix_xor(mut word: u64) -> u64 {
    word ^= word << 1;
    word ^= word << 2;
    word ^= word << 4;
    word ^= word << 8;
    word ^= word << 16;
    word ^= word << 32;
    word
}

/// The block as four vectors.
#[inline]
fn vectors(block: &Block) -> [u8x16; 4] {
    let (parts, _) = block.as_chunks::<16>();
    [parts[0], parts[1], parts[2], parts[3]].map(u8x16::new)
}

#[inline]
fn mask(hits: [u8x16; 4]) -> u64 {
    let [a, b, c, d] = hits.map(|part| u64::from(part.to_bitmask()));
    a | b << 16 | c << 32 | d << 48
}

/// The places of `byte` in a block.
#[inline]
fn matching(block: &Block, byte: u8) -> u64 {
    let byte = u8x16::splat(byte);
    mask(vectors(block).map(|part| part.simd_eq(byte)))
}

/// Whether `byte` is in a block. Cheaper than [`matching`].
#[inline]
fn contains(block: &Block, byte: u8) -> bool {
    let byte = u8x16::splat(byte);
    let [a, b, c, d] = vectors(block).map(|part| part.simd_eq(byte));
    (a | b | c | d).any()
}

/// The places of brackets in a block. `{` and `[`, and `}` and `]`, differ in one bit: with this
/// bit set in all bytes, two comparisons find all four.
#[inline]
fn brackets(block: &Block) -> u64 {
    let (bit, open, close) = (u8x16::splat(CURLY), u8x16::splat(b'{'), u8x16::splat(b'}'));
    mask(vectors(block).map(|part| {
        let curly = part | bit;
        curly.simd_eq(open) | curly.simd_eq(close)
    }))
}
