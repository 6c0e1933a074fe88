'use strict'
// What the door's answer means for a batch, and how long to wait. Pure functions; the conformance vectors are their tests.

const RETRY_AFTER_MAX_SECONDS = 300
const RETRY_CODES = new Set(['disconnected']) // 400 because the body did not arrive whole: nothing is wrong with it
const AHEAD = 'in_the_future'
const [AHEAD_SLACK_SECONDS, AHEAD_PAUSE_SECONDS, AHEAD_PAUSE_MAX_SECONDS] = [300, 60, 3600] // the door takes what is 5 minutes ahead
const REFUSED = 'the key is refused: give a valid one (turnpike senders add); all is kept until then'
const STATUSES = new Set(['accepted', 'rejected'])

/**
 * Returns {action, refusals, ahead, answeredAt, waitSeconds, problem} for a batch of `events`.
 *
 * done: remove it, its refusals are kept aside, and those ahead of the door's clock (`answeredAt`) wait. split: something in it is
 * poison, send halves. retry: later, as it is. unauthorized: the key is refused.
 */
function judge(status, headers, body, { events, now }) {
  const answer = object(body)
  if ((status === 202 || status === 403 || status === 422) && Array.isArray(answer.results)) {
    return byEvent(answer.results, events, doorTime(headers.get('date') ?? '', now))
  }
  const code = String(answer.error?.code ?? '')
  const message = String(answer.error?.message ?? '')
  if (status === 401 || status === 403) return verdict('unauthorized', { problem: `HTTP ${status}: ${REFUSED}` })
  if ((status === 400 || status === 413) && !RETRY_CODES.has(code) && (code || events > 1)) {
    if (events > 1) return verdict('split', { problem: `HTTP ${status}: ${code}` })
    return verdict('done', { refusals: [{ place: 0, reason: code, message }] })
  }
  const waitSeconds = retryAfter(headers.get('retry-after') ?? '', now)
  return verdict('retry', { waitSeconds, problem: `HTTP ${status}${code ? `: ${code}` : ''}` })
}

function byEvent(results, events, answeredAt) {
  if (results.length !== events || !results.every((one) => STATUSES.has(one?.status))) {
    return verdict('retry', { problem: 'the answer does not fit the batch' })
  }
  const refusals = results.flatMap((one, place) =>
    one.status === 'rejected' ? [{ place, reason: String(one.reason ?? ''), message: String(one.message ?? '') }] : [],
  )
  const ahead = refusals.filter((one) => one.reason === AHEAD)
  return verdict('done', { refusals: refusals.filter((one) => one.reason !== AHEAD), ahead, answeredAt })
}

function verdict(action, { refusals = [], ahead = [], answeredAt = null, waitSeconds = 0, problem = '' }) {
  return { action, refusals, ahead, answeredAt, waitSeconds, problem }
}

/** The door's clock as its header Date says, or this machine's where there is none. */
function doorTime(date, now) {
  const found = Date.parse(date)
  return Number.isNaN(found) ? now : new Date(found)
}

/** The seconds that an event ahead of the door's clock waits: 1 to 60 minutes; null: it is too far ahead to wait. */
function aheadPause(time, answeredAt, longestSeconds) {
  const ahead = (time.getTime() - answeredAt.getTime()) / 1000
  if (ahead > longestSeconds) return null
  return Math.min(Math.max(ahead - AHEAD_SLACK_SECONDS, AHEAD_PAUSE_SECONDS), AHEAD_PAUSE_MAX_SECONDS)
}

function object(body) {
  try {
    const found = JSON.parse(body)
    return found !== null && typeof found === 'object' && !Array.isArray(found) ? found : {}
  } catch {
    return {}
  }
}

/** The seconds a Retry-After header asks for (a number or a date), at most five minutes; 0 when it says nothing. */
function retryAfter(value, now) {
  const text = value.trim()
  if (/^\d+$/.test(text)) return Math.min(Number(text), RETRY_AFTER_MAX_SECONDS)
  const until = Date.parse(text)
  return Number.isNaN(until) ? 0 : Math.min(Math.max((until - now.getTime()) / 1000, 0), RETRY_AFTER_MAX_SECONDS)
}

/** The pause before the next try: doubled with each attempt (from 0), of which the upper half is random in [0, 1). */
function backoff(attempt, { firstSeconds, longestSeconds, random }) {
  return Math.min(firstSeconds * 2 ** Math.min(attempt, 30), longestSeconds) * (0.5 + 0.5 * random)
}

module.exports = { AHEAD, judge, aheadPause, backoff, AHEAD_PAUSE_MAX_SECONDS }
