'use strict'
// What the door refused for good: one JSON object a line in a file beside the segments, up to a size.

const fs = require('node:fs/promises')
const path = require('node:path')

const FILE = 'rejected.jsonl'

/** Appends refusals [{event, reason, message}], durably; those beyond the size are told to the app but not kept. */
async function keep(folder, refusals, { bytesMax, now }) {
  const handle = await fs.open(path.join(folder, FILE), 'a', 0o600)
  try {
    const { size } = await handle.stat()
    let room = bytesMax - size
    let text = ''
    for (const { event, reason, message } of refusals) {
      const line = `${JSON.stringify({ at: now.toISOString(), reason, message, event: parsed(event) })}\n`
      room -= Buffer.byteLength(line)
      if (room >= 0) text += line
    }
    if (text) {
      try {
        await handle.write(text)
        await handle.datasync()
      } catch (error) {
        await handle.truncate(size).catch(() => {}) // half a line would spoil the next
        throw error
      }
    }
  } finally {
    await handle.close()
  }
}

/** A damaged line is kept as the text it is. */
function parsed(event) {
  try {
    return JSON.parse(event)
  } catch {
    return event
  }
}

module.exports = { keep, parsed }
