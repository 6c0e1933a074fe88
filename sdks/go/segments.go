package turnpike

import (
	"bytes"
	"fmt"
	"hash/crc32"
)

const checksumLength = 8

// line is one line of a segment. end is its end in bytes; a damaged one has no event.
type line struct {
	event, raw []byte
	end        int64
}

// encode returns the line of an event: the CRC-32 of its bytes in 8 hex digits before it. sdks/README.md describes the format.
func encode(body []byte) []byte { return fmt.Appendf(nil, "%08x %s\n", crc32.ChecksumIEEE(body), body) }

// decode returns the whole lines of a segment. What stands behind the last line end was never acknowledged; a damaged line does not
// hide the ones that follow.
func decode(text []byte) []line {
	var lines []line
	var end int64
	for {
		raw, rest, found := bytes.Cut(text, []byte("\n"))
		if !found {
			return lines
		}
		end += int64(len(raw)) + 1
		lines = append(lines, line{eventOf(raw), raw, end})
		text = rest
	}
}

func eventOf(raw []byte) []byte {
	if len(raw) <= checksumLength || raw[checksumLength] != ' ' {
		return nil
	}
	body := raw[checksumLength+1:]
	if fmt.Sprintf("%08x", crc32.ChecksumIEEE(body)) != string(raw[:checksumLength]) {
		return nil
	}
	return body
}
