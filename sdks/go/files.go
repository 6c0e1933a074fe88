package turnpike

import (
	"errors"
	"io"
	"os"
	"syscall"
)

// isFull tells whether the disk, or somebody's share of it, has no room.
func isFull(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }

func linesOf(from *segment) ([]line, error) {
	if from.read >= from.length {
		return nil, nil
	}
	file, err := os.Open(from.path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	text := make([]byte, from.length-from.read)
	count, err := file.ReadAt(text, from.read)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return decode(text[:count]), nil
}

func sizeOf(path string) int64 {
	found, err := os.Stat(path)
	if err != nil {
		return 0 // sent and deleted meanwhile
	}
	return found.Size()
}

func syncFolder(path string) error {
	folder, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}
