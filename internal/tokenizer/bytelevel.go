package tokenizer

// Byte-level vocabularies (GPT-2's bytes_to_unicode) write each byte as one printable rune: the printable bytes of
// Latin-1 as themselves, the 68 others, in order, as U+0100 and up.

const numByteRunes = 256 + 68

// runeBytes is the byte that a rune writes, −1 where it writes none.
var runeBytes = byteTable()

func byteTable() (bytes [numByteRunes]int16) {
	for i := range bytes {
		bytes[i] = -1
	}
	next := rune(256)
	for b := range 256 {
		r := rune(b)
		if printable := b >= '!' && b <= '~' || b >= 0xA1 && b <= 0xAC || b >= 0xAE; !printable {
			r = next
			next++
		}
		bytes[r] = int16(b)
	}
	return bytes
}

// bytesOfPiece returns the bytes that a byte-level piece stands for, or false when a rune of it stands for none.
func bytesOfPiece(dst []byte, piece string) ([]byte, bool) {
	for _, r := range piece {
		if r >= numByteRunes || runeBytes[r] < 0 {
			return dst, false
		}
		dst = append(dst, byte(runeBytes[r]))
	}
	return dst, true
}

// byteOfToken reads a byte-fallback token: <0xHH>.
func byteOfToken(piece string) (byte, bool) {
	if len(piece) != 6 || piece[:3] != "<0x" || piece[5] != '>' {
		return 0, false
	}
	hi, lo := hexDigit(piece[3]), hexDigit(piece[4])
	if hi < 0 || lo < 0 {
		return 0, false
	}
	return byte(hi<<4 | lo), true
}

func hexDigit(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}
