'use strict'
// The URL template behind a call, so that no raw path leaves the app.

const UNKNOWN_MOUNT = '{mount}'

/**
 * Returns `/orders/{id}` for Express's `/orders/:id`, or null when no route answered.
 *
 * Express does not say how a router was mounted, only the path it matched, which may hold names of people: so the templates of
 * mounts have to be given (`mounts`), and what fits none of them is `{mount}`.
 */
function templateOf(req, mounts) {
  const path = req.route?.path
  if (typeof path !== 'string') return null
  const own = path.replace(/:(\w+)(\([^)]*\))?[?*+]?/g, '{$1}').replace(/\*(\w+)/g, '{$1}')
  if (!req.baseUrl) return own
  const segments = req.baseUrl.split('/')
  const mount = mounts.find((one) => fits(one.split('/'), segments)) ?? UNKNOWN_MOUNT
  return own === '/' ? mount : mount + own
}

function fits(template, segments) {
  return template.length === segments.length && template.every((part, place) => part === segments[place] || /^\{\w+\}$/.test(part))
}

module.exports = { templateOf }
