'use strict'
// The spool: a folder of append-only segments. Each process writes its own, sends its own, and takes over those of the dead.

const { randomBytes } = require('node:crypto')
const fs = require('node:fs/promises')
const path = require('node:path')
const { Held, syncFolder } = require('./held')
const liveness = require('./liveness')
const { decode, encode } = require('./segments')

const SEGMENT_BYTES_MAX = 1 << 20
const NAME = /^([0-9a-f]{16})-\d{8}\.seg$/

/** The spool has reached its size, or the disk has no room. */
class SpoolFullError extends Error {}

class Spool {
  /** `segments`: what this process has to send, oldest first; `active`: the one it writes. */
  constructor(folder, { bytesMax, durability }) {
    this.folder = folder
    this.bytes = 0
    this._bytesMax = bytesMax
    this._segmentBytes = Math.min(SEGMENT_BYTES_MAX, bytesMax / 8)
    this._toDisk = durability === 'disk'
    this._writer = randomBytes(8).toString('hex')
    this._number = 0
    this._segments = []
    this._active = null
    this._handle = null
    this._busy = false
    this._hide = null
    this._opened = null
    this._held = new Held(this._segmentBytes, this._toDisk)
  }

  /** Called before anything else, by whoever comes first; after a failure it may be called again. */
  open() {
    this._opened ??= this._open().catch((error) => {
      this._opened = null
      throw error
    })
    return this._opened
  }

  async _open() {
    this._hide ??= await liveness.show(this.folder, this._writer)
    await this.adopt()
  }

  /** Stores all events of a group, durably. Throws SpoolFullError, or what the file system throws: then none counts as stored. */
  async append(events) {
    await this.open()
    const bytes = Buffer.from(events.map(encode).join(''))
    if (this.bytes + bytes.length > this._bytesMax) throw new SpoolFullError('the spool has reached its size')
    this._busy = true
    try {
      if (this._active === null) await this._begin()
      await this._write(bytes)
    } catch (error) {
      await this._undo()
      throw isFull(error) ? new SpoolFullError('the disk is full') : error
    } finally {
      this._busy = false
    }
    this._active.length += bytes.length
    this.bytes += bytes.length
    if (this._active.length >= this._segmentBytes) await this._seal()
  }

  /** Returns {events, damaged, more, take}: the oldest events, and what to call once all of them are answered. */
  async read(eventsMax, bytesMax) {
    this._segments.splice(this._active === null ? this._segments.length : -1, 0, ...this._held.release(performance.now()))
    for (let segment = this._segments[0]; segment !== undefined; segment = this._segments[0]) {
      const lines = await this._linesOf(segment).catch((error) => this._forget(segment, error))
      if (lines.length > 0) return this._batch(segment, lines, eventsMax, bytesMax)
      if (!(await this._finish(segment))) break
    }
    return { events: [], damaged: [], more: false, take() {} }
  }

  /** Stores events that are to be sent again once they are due, beyond any limit: they are in the spool already. */
  async hold(events, due) {
    this.bytes += await this._held.add(events, due, () => this._next())
  }

  /** Tells whether something waits for the door's clock. */
  holds() {
    return this._held.segments.length > 0
  }

  /** Takes over what dead processes left, and measures the folder. */
  async adopt() {
    const writers = new Map()
    let bytes = 0
    for (const name of (await fs.readdir(this.folder)).sort()) {
      const writer = NAME.exec(name)?.[1]
      if (writer === undefined) continue
      bytes += await sizeOf(path.join(this.folder, name))
      if (writer !== this._writer) writers.set(writer, [...(writers.get(writer) ?? []), name])
    }
    this.bytes = bytes
    for (const [writer, names] of writers) {
      if (await liveness.isAlive(this.folder, writer)) continue
      const taken = []
      for (const name of names) taken.push(...(await this._takeOver(name)))
      this._segments.unshift(...taken)
      await liveness.bury(this.folder, writer)
    }
  }

  async close() {
    await this._handle?.close()
    this._handle = null
    await this._hide?.()
  }

  async _takeOver(name) {
    const file = this._next()
    try {
      await fs.rename(path.join(this.folder, name), file)
    } catch (error) {
      if (error.code === 'ENOENT') return [] // another process was faster
      throw error
    }
    return [{ file, length: await sizeOf(file), read: 0, sealed: true }]
  }

  _next() {
    this._number += 1
    return path.join(this.folder, `${this._writer}-${String(this._number).padStart(8, '0')}.seg`)
  }

  async _begin() {
    const file = this._next()
    this._handle = await fs.open(file, 'ax', 0o600)
    this._active = { file, length: 0, read: 0, sealed: false }
    this._segments.push(this._active)
    if (this._toDisk) await syncFolder(this.folder)
  }

  async _write(bytes) {
    for (let written = 0; written < bytes.length; ) {
      written += (await this._handle.write(bytes, written, bytes.length - written)).bytesWritten
    }
    if (this._toDisk) await this._handle.datasync()
  }

  /** After a failed write: what may stand behind the good part is cut off, and the segment gets no more. */
  async _undo() {
    await this._handle?.truncate(this._active.length).catch(() => {})
    if (this._active !== null) await this._seal().catch(() => {})
  }

  async _seal() {
    const handle = this._handle
    this._active.sealed = true
    this._active = null
    this._handle = null
    await handle.close()
  }

  async _linesOf(segment) {
    const length = segment.length - segment.read
    if (length === 0) return []
    const handle = await fs.open(segment.file, 'r')
    try {
      const bytes = Buffer.alloc(length)
      const { bytesRead } = await handle.read(bytes, 0, length, segment.read)
      return decode(bytes.subarray(0, bytesRead))
    } finally {
      await handle.close()
    }
  }

  _batch(segment, lines, eventsMax, bytesMax) {
    let [count, size] = [0, 0]
    while (count < Math.min(lines.length, eventsMax) && (count === 0 || size + lines[count].raw.length <= bytesMax)) {
      size += lines[count].raw.length
      count += 1
    }
    const chosen = lines.slice(0, count)
    return {
      events: chosen.filter((line) => line.event !== null).map((line) => line.event),
      damaged: chosen.filter((line) => line.event === null).map((line) => line.raw.toString('latin1')),
      more: count < lines.length || this._segments.length > 1,
      take() {
        segment.read += chosen.at(-1).end
      },
    }
  }

  /** A segment that is no longer there hides none of the others. */
  async _forget(gone, error) {
    if (error.code !== 'ENOENT') throw error
    if (gone === this._active && !this._busy) await this._seal()
    if (gone !== this._active) {
      this._segments.shift()
      this.bytes -= gone.length
    }
    throw new Error(`a segment with ${gone.length - gone.read} bytes of usage was deleted by somebody else: ${path.basename(gone.file)}`)
  }

  /** Deletes a segment that is sent to its end; returns whether there may be another. The one being written is closed first. */
  async _finish(segment) {
    if (!segment.sealed) {
      if (this._busy || segment.length === 0) return false
      await this._seal()
    }
    await fs.rm(segment.file, { force: true })
    this._segments.shift()
    this.bytes -= segment.length
    return true
  }
}

/** Tells whether the disk, or somebody's share of it, has no room. */
function isFull(error) {
  return error.code === 'ENOSPC' || error.code === 'EDQUOT'
}

async function sizeOf(file) {
  try {
    return (await fs.stat(file)).size
  } catch {
    return 0 // sent and deleted meanwhile
  }
}

module.exports = { Spool, SpoolFullError, isFull }
