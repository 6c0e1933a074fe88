'use strict'
// The text of a segment: one event a line, behind the CRC-32 of its bytes in 8 hex digits. Pure; sdks/README.md describes the format.

const { crc32 } = require('node:zlib')

const CHECKSUM_LENGTH = 8

function encode(event) {
  return `${crc32(event).toString(16).padStart(CHECKSUM_LENGTH, '0')} ${event}\n`
}

/**
 * Returns the lines of a segment as [{event, raw, end}]: `event` is null for a damaged one, `end` its end in bytes.
 *
 * What stands behind the last line end was never acknowledged. A damaged line does not hide the ones that follow.
 */
function decode(bytes) {
  const lines = []
  let start = 0
  for (let end = bytes.indexOf(10, start); end >= 0; start = end + 1, end = bytes.indexOf(10, start)) {
    const raw = bytes.subarray(start, end)
    lines.push({ event: eventOf(raw), raw, end: end + 1 })
  }
  return lines
}

function eventOf(bytes) {
  if (bytes.length <= CHECKSUM_LENGTH || bytes[CHECKSUM_LENGTH] !== 32) return null
  const body = bytes.subarray(CHECKSUM_LENGTH + 1)
  return crc32(body).toString(16).padStart(CHECKSUM_LENGTH, '0') === bytes.subarray(0, CHECKSUM_LENGTH).toString('latin1')
    ? body.toString('utf8')
    : null
}

module.exports = { encode, decode }
