'use strict'
// Group commit: what has gathered while the last group went to the disk is stored together, then its requests go on.

const { SpoolFullError } = require('./spool')
const { setTimeout: sleep } = require('node:timers/promises')

const GROUP_MAX = 1000
const RETRY_MS = 100

class Writer {
  constructor(spool, options, stats, reports) {
    this._spool = spool
    this._options = options
    this._stats = stats
    this._reports = reports
    this._waiting = []
    this._limit = GROUP_MAX
    this._running = null
    this._stopAt = Infinity
  }

  /** Resolves once the event is durable, or dropped, or the limit of waiting has passed. Never rejects. */
  put(event) {
    this._stats.recorded += 1
    if (this._waiting.length >= this._options.memoryEventsMax || this._stopAt !== Infinity) {
      this._reports.dropped(1)
      return Promise.resolve()
    }
    this._stats.inMemory += 1
    return new Promise((resolve) => {
      const timer = setTimeout(() => {
        this._reports.error('late', `an event is not on disk after ${this._options.waitSeconds} s; it waits in memory`)
        resolve()
      }, this._options.waitSeconds * 1000)
      this._waiting.push({ event, timer, resolve })
      this._running ??= this._run()
    })
  }

  /** Stores what is left, within a limit of time; returns how many events could not be stored. */
  async stop(seconds) {
    this._stopAt = performance.now() + seconds * 1000
    await this._running
    return this._waiting.length
  }

  async _run() {
    while (this._waiting.length > 0 && performance.now() < this._stopAt) {
      const group = this._waiting.slice(0, this._limit)
      try {
        await this._spool.append(group.map((entry) => entry.event))
        this._limit = Math.min(this._limit * 2, GROUP_MAX)
        this._stats.spooled += group.length
        this._finish(group)
      } catch (error) {
        await this._failed(error, group)
      }
    }
    this._running = null
  }

  async _failed(error, group) {
    if (!(error instanceof SpoolFullError)) {
      this._reports.error('spool', error.code ?? error.message)
    } else if (group.length > 1) {
      this._limit = Math.ceil(group.length / 2) // a part of it may still fit
      return
    } else {
      this._reports.error('spool_full', error.message)
      if (this._options.whenFull === 'drop') {
        this._reports.dropped(group.length)
        this._finish(group)
        return
      }
    }
    await sleep(RETRY_MS)
  }

  _finish(group) {
    this._waiting.splice(0, group.length)
    this._stats.inMemory -= group.length
    for (const entry of group) {
      clearTimeout(entry.timer)
      entry.resolve()
    }
  }
}

module.exports = { Writer }
