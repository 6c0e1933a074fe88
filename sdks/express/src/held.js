'use strict'
// What is ahead of the door's clock. On the disk it is in segments like any other: after a crash it is sent at once, and held again.

const fs = require('node:fs/promises')
const path = require('node:path')
const { encode } = require('./segments')

class Held {
  /** `segments`: each with the time of `performance.now()` at which it is due. */
  constructor(segmentBytes, toDisk) {
    this.segments = []
    this._segmentBytes = segmentBytes
    this._toDisk = toDisk
  }

  /** Stores events, durably; returns their bytes in the file. Throws what the file system throws: then none counts as stored. */
  async add(events, due, nextFile) {
    const bytes = Buffer.from(events.map(encode).join(''))
    const last = this.segments.at(-1)
    const into = last !== undefined && last.length < this._segmentBytes ? last : { file: nextFile(), length: 0, read: 0, sealed: true, due }
    await extend(into.file, into.length, bytes, this._toDisk)
    into.length += bytes.length
    into.due = Math.min(into.due, due)
    if (into !== last) this.segments.push(into)
    return bytes.length
  }

  /** Returns what is due, and holds it no longer. */
  release(now) {
    const due = this.segments.filter((one) => one.due <= now)
    if (due.length > 0) this.segments = this.segments.filter((one) => one.due > now)
    return due
  }
}

/** Writes behind the good part of a file, or leaves it as it was. */
async function extend(file, length, bytes, toDisk) {
  const handle = await fs.open(file, length > 0 ? 'r+' : 'w', 0o600)
  try {
    for (let written = 0; written < bytes.length; ) {
      written += (await handle.write(bytes, written, bytes.length - written, length + written)).bytesWritten
    }
    if (toDisk) await handle.datasync()
  } catch (error) {
    await handle.truncate(length).catch(() => {})
    throw error
  } finally {
    await handle.close()
  }
  if (toDisk && length === 0) await syncFolder(path.dirname(file))
}

async function syncFolder(folder) {
  const handle = await fs.open(folder, 'r')
  try {
    await handle.sync()
  } finally {
    await handle.close()
  }
}

module.exports = { Held, syncFolder }
