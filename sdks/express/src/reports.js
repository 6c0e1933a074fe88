'use strict'
// What goes wrong is counted, logged when it changes, and told to the app's hooks. Never throws.

const { parsed } = require('./rejected')

const SAME_PROBLEM_MS = 60_000

class Reports {
  constructor(options, stats) {
    this._options = options
    this._stats = stats
    this._told = new Map()
  }

  /** Tells a problem. It never holds a payload or a key. */
  error(kind, problem) {
    this._stats.errors += 1
    this._log(kind, problem)
    call(this._options.onError, kind, problem)
  }

  dropped(events) {
    this._stats.dropped += events
    this._log('dropped', 'usage events were dropped: the spool is full')
    call(this._options.onDropped, events)
  }

  rejected(event, reason, message) {
    this._log(`rejected: ${reason}`, `${message}; such events are kept aside in the spool`)
    call(this._options.onRejected, parsed(event), reason, message)
  }

  /** Logs when something changes, and the same at most once a minute. */
  _log(kind, problem) {
    const last = this._told.get(kind)
    const now = performance.now()
    if (last?.problem === problem && now - last.at < SAME_PROBLEM_MS) return
    this._told.set(kind, { problem, at: now })
    console.warn(`turnpike: ${kind}: ${problem}`)
  }
}

function call(hook, ...values) {
  try {
    hook?.(...values)
  } catch {
    // a hook's errors are its own
  }
}

module.exports = { Reports }
