package turnpike

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

const socketPathMax = 103 // of a socket's address, on the strictest of the systems

// newWriterID names a process in a spool; it is never used again.
func newWriterID() string {
	var raw [8]byte
	_, _ = rand.Read(raw[:]) // never fails on the systems Go supports
	return hex.EncodeToString(raw[:])
}

// socketPath is where a writer's socket is: the shorter of the absolute and the relative path, for the address has a limit.
func socketPath(folder, writer string) string {
	absolute, err := filepath.Abs(filepath.Join(folder, writer+".sock"))
	if err != nil {
		return filepath.Join(folder, writer+".sock")
	}
	if here, err := os.Getwd(); err == nil {
		if relative, err := filepath.Rel(here, absolute); err == nil && len(relative) < len(absolute) {
			return relative
		}
	}
	return absolute
}

// showAlive listens beside the segments until the process ends: the kernel refuses a connection to a dead one.
func showAlive(folder, writer string) (func() error, error) {
	listener, err := net.Listen("unix", socketPath(folder, writer))
	if err != nil {
		return nil, err
	}
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			_ = connection.Close()
		}
	}()
	return listener.Close, nil
}

// isAlive counts every doubt as alive: a stopped process is, and so is one that is too busy to answer.
func isAlive(folder, writer string) bool {
	connection, err := net.DialTimeout("unix", socketPath(folder, writer), time.Second)
	if err == nil {
		_ = connection.Close()
		return true
	}
	return !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, fs.ErrNotExist)
}

func bury(folder, writer string) { _ = os.Remove(filepath.Join(folder, writer+".sock")) }
