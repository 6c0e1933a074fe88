'use strict'
// Counts the calls of an Express app and sends them to Turnpike's ingest door, through a spool on disk.

const { ConfigurationError } = require('./options')
const { turnpike } = require('./middleware')

exports.turnpike = turnpike
exports.ConfigurationError = ConfigurationError
