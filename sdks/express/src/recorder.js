'use strict'
// Takes events and makes them durable; owns what runs in this process.

const { randomUUID } = require('node:crypto')
const fs = require('node:fs')
const { build } = require('./events')
const liveness = require('./liveness')
const { ConfigurationError, readOptions } = require('./options')
const { Reports } = require('./reports')
const { Sender } = require('./sender')
const { Spool } = require('./spool')
const { Writer } = require('./writer')

class Recorder {
  constructor(given) {
    this.options = readOptions(given)
    this._stats = {
      recorded: 0, spooled: 0, dropped: 0, inMemory: 0, unattributed: 0, errors: 0,
      accepted: 0, rejected: 0, retries: 0, spoolBytes: 0, state: 'idle',
    }
    this._reports = new Reports(this.options, this._stats)
    checkFolder(this.options.folder)
    const { folder, spoolBytesMax, durability } = this.options
    this._spool = new Spool(folder, { bytesMax: spoolBytesMax, durability })
    this._writer = new Writer(this._spool, this.options, this._stats, this._reports)
    this._sender = new Sender(this._spool, this.options, this._stats, this._reports)
    this._sender.start()
  }

  /** Makes the event of an answered call durable. Never rejects; takes at most `waitSeconds`. */
  async record(call) {
    try {
      const event = await this._event(call)
      if (event !== null) await this._writer.put(event)
    } catch (error) {
      this._reports.error('record', `${error.name}: ${error.message}`)
    }
  }

  stats() {
    return { ...this._stats }
  }

  /** Stores what is in memory, sends what can be sent within `shutdownSeconds`; the rest stays in the spool. */
  async close() {
    const end = performance.now() + this.options.shutdownSeconds * 1000
    const lost = await this._writer.stop(this.options.shutdownSeconds)
    if (lost > 0) this._reports.dropped(lost)
    await this._sender.stop(Math.max(end - performance.now(), 0) / 1000)
    await this._spool.close()
  }

  async _event(call) {
    const { options } = this
    if (options.template !== undefined) call.template = options.template(call.req)
    const usage = options.usage === undefined ? {} : options.usage(call)
    if (usage == null) return null
    const subject = await options.subject(call.req, call.res)
    if (subject == null) {
      this._stats.unattributed += 1
      return null
    }
    return build(call, usage, { source: options.source, subject, id: randomUUID(), now: options.clock() })
  }
}

function checkFolder(folder) {
  try {
    fs.mkdirSync(folder, { mode: 0o700, recursive: true })
    fs.accessSync(folder, fs.constants.W_OK | fs.constants.X_OK)
  } catch (error) {
    throw new ConfigurationError(`spoolFolder ${folder} cannot be used (${error.code}): name one that is writable and outlives the process`)
  }
  if (!liveness.fits(folder)) throw new ConfigurationError(`spoolFolder ${folder} is too long for a socket's address: name a shorter one`)
}

module.exports = { Recorder }
