'use strict'
// The loop that sends: oldest events first, removed only once the door has answered for each of them.

const { promisify } = require('node:util')
const zlib = require('node:zlib')
const answers = require('./answers')
const { keep } = require('./rejected')
const { isFull } = require('./spool')

const gzip = promisify(zlib.gzip)
const BATCH_TYPE = 'application/cloudevents-batch+json'
const GZIP_FROM_BYTES = 1024
const AHEAD_PROBLEM = "the door says that this machine's clock is ahead: such events wait, the others are sent"
const ADOPT_MS = 2000
const EXPIRED = 'expired_in_spool'
const STATES = { retry: 'retrying', unauthorized: 'unauthorized' }

class Sender {
  constructor(spool, options, stats, reports) {
    this._spool = spool
    this._options = options
    this._stats = stats
    this._reports = reports
    this._attempt = 0
    this._ahead = null // of the batch that is being sent, what is ahead of the door's clock
    this._stopAt = Infinity
    this._wake = () => {}
    this._adoptedAt = performance.now()
    this._running = null
  }

  start() {
    this._running = this._run()
  }

  /** Sends what is left, within a limit of time. */
  async stop(seconds) {
    this._stopAt = performance.now() + seconds * 1000
    this._wake()
    let timer
    const limit = new Promise((resolve) => {
      timer = setTimeout(resolve, seconds * 1000) // keeps the process alive meanwhile
    })
    await Promise.race([this._running, limit])
    clearTimeout(timer)
  }

  async _run() {
    while (performance.now() < this._stopAt) {
      let pause
      try {
        const stopping = this._stopAt !== Infinity
        const turn = await this._turn()
        if (turn.empty && stopping) return
        pause = turn.pause
      } catch (error) {
        this._reports.error('sender', error.code ?? error.message) // whatever happens here, the app goes on and the events stay
        pause = this._backoff(0)
      }
      await this._wait(pause)
    }
  }

  /** Sends one batch; returns the seconds to wait. */
  async _turn() {
    await this._spool.open()
    if (performance.now() - this._adoptedAt > ADOPT_MS) {
      this._adoptedAt = performance.now()
      await this._spool.adopt()
    }
    const batch = await this._spool.read(this._options.batchEventsMax, this._options.batchBytesMax)
    this._stats.spoolBytes = this._spool.bytes
    if (batch.events.length + batch.damaged.length === 0) {
      this._stats.state = this._spool.holds() ? 'clock_ahead' : 'idle'
      this._attempt = 0
      return { pause: this._options.flushSeconds, empty: true }
    }
    await this._setAside(batch.damaged.map((event) => ({ event, reason: 'damaged', message: 'the line in the spool is damaged' })))
    batch.damaged = []
    this._ahead = { events: [], seconds: answers.AHEAD_PAUSE_MAX_SECONDS }
    const pause = await this._send(await this._young(batch.events))
    if (this._attempt === 0) {
      await this._hold()
      batch.take()
    }
    return { pause: this._attempt > 0 ? pause : batch.more ? 0 : this._options.flushSeconds, empty: false }
  }

  /** Returns the events without those too old to be taken. */
  async _young(events) {
    const oldest = this._options.clock().getTime() - this._options.spoolAgeMaxSeconds * 1000
    const expired = events.filter((event) => Date.parse(JSON.parse(event).time) < oldest)
    if (expired.length === 0) return events
    await this._setAside(expired.map((event) => ({ event, reason: EXPIRED, message: 'it waited in the spool for too long' })))
    return events.filter((event) => !expired.includes(event))
  }

  async _send(events) {
    if (events.length === 0) return 0
    this._stats.state = 'sending'
    const verdict = await this._post(events)
    if (verdict.action === 'done') {
      await this._finish(events, verdict)
      return 0
    }
    this._reports.error(verdict.action, verdict.problem)
    if (verdict.action === 'split') {
      const middle = Math.floor(events.length / 2)
      const pause = await this._send(events.slice(0, middle))
      return this._attempt > 0 ? pause : this._send(events.slice(middle))
    }
    this._stats.retries += 1
    this._stats.state = STATES[verdict.action]
    return this._backoff(verdict.action === 'unauthorized' ? this._options.unauthorizedPauseSeconds : verdict.waitSeconds)
  }

  /** Counts what was answered. What is ahead of the door's clock waits, so that it stands in nobody's way; too far ahead is refused. */
  async _finish(events, verdict) {
    this._attempt = 0
    const refused = verdict.refusals.map(({ place, reason, message }) => ({ event: events[place], reason, message }))
    let waiting = 0
    for (const { place, reason, message } of verdict.ahead) {
      const event = events[place]
      const pause = answers.aheadPause(new Date(JSON.parse(event).time), verdict.answeredAt, this._options.spoolAgeMaxSeconds)
      if (pause === null) {
        refused.push({ event, reason, message })
        continue
      }
      this._ahead.events.push(event)
      this._ahead.seconds = Math.min(this._ahead.seconds, pause)
      waiting += 1
    }
    await this._setAside(refused)
    this._stats.accepted += events.length - refused.length - waiting
  }

  /** Has what is ahead of the door's clock wait in a segment of its own. */
  async _hold() {
    const { events, seconds } = this._ahead
    if (events.length === 0) return
    this._stats.retries += 1
    this._reports.error('ahead', AHEAD_PROBLEM)
    try {
      await this._spool.hold(events, performance.now() + seconds * 1000)
    } catch (error) {
      if (!isFull(error)) throw error
      const message = "it is ahead of the door's clock, and the disk is full"
      await this._setAside(events.map((event) => ({ event, reason: answers.AHEAD, message })))
    }
  }

  async _post(events) {
    const text = `[${events.join(',')}]`
    const packed = text.length >= GZIP_FROM_BYTES
    const headers = { authorization: `Bearer ${this._options.currentKey()}`, 'content-type': BATCH_TYPE }
    if (packed) headers['content-encoding'] = 'gzip'
    try {
      const answer = await fetch(this._options.address, {
        method: 'POST',
        body: packed ? await gzip(text) : text,
        headers,
        redirect: 'manual',
        signal: AbortSignal.timeout(this._options.timeoutSeconds * 1000),
      })
      const body = await answer.text()
      return answers.judge(answer.status, answer.headers, body, { events: events.length, now: new Date() })
    } catch (error) {
      return { action: 'retry', waitSeconds: 0, problem: error.cause?.code ?? error.name }
    }
  }

  async _setAside(refusals) {
    if (refusals.length === 0) return
    try {
      await keep(this._spool.folder, refusals, { bytesMax: this._options.rejectedBytesMax, now: new Date() })
    } catch (error) {
      if (!isFull(error)) throw error
      this._reports.error('rejected', 'the disk is full: refused events are told, but not kept') // sending is what makes room
    }
    this._stats.rejected += refusals.length
    for (const { event, reason, message } of refusals) this._reports.rejected(event, reason, message)
  }

  _backoff(atLeast) {
    const pause = answers.backoff(this._attempt, {
      firstSeconds: this._options.backoffSeconds,
      longestSeconds: this._options.backoffMaxSeconds,
      random: Math.random(),
    })
    this._attempt += 1
    return Math.max(pause, atLeast)
  }

  /** Waits; when stopping only after failures, and not past the limit. */
  async _wait(seconds) {
    const until = performance.now() + seconds * 1000
    for (;;) {
      const stopping = this._stopAt !== Infinity
      const left = (stopping ? (this._attempt > 0 ? Math.min(until, this._stopAt) : 0) : until) - performance.now()
      if (left <= 0) return
      await new Promise((resolve) => {
        this._wake = resolve
        setTimeout(resolve, left).unref()
      })
    }
  }
}

module.exports = { Sender }
