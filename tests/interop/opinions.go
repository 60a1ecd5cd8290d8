// What golang.org/x/mod says of cases: proofs by sumdb/tlog, signed notes by sumdb/note, tiles by the hash reader of tlog.
//
//	GO111MODULE=off GOPATH=/usr/share/gocode go run opinions.go CASES
package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

type cases struct {
	Inclusion []struct {
		Leaf  []byte
		Index int64
		Size  int64
		Root  []byte
		Path  [][]byte
	}
	Consistency []struct {
		Old     int64
		OldRoot []byte `json:"old_root"`
		Size    int64
		Root    []byte
		Path    [][]byte
	}
	Notes []struct {
		Note string
		Keys []string
	}
	Roots []struct {
		Leaves [][]byte
		Root   []byte
	}
	Tiles struct {
		Folder string
		Size   int64
		Root   []byte
	}
}

func hashes(path [][]byte) []tlog.Hash {
	found := []tlog.Hash{}
	for _, step := range path {
		found = append(found, hash(step))
	}
	return found
}

func hash(digest []byte) (h tlog.Hash) {
	copy(h[:], digest)
	return h
}

// cosigner is a witness's key of tlog-cosignature, as a Verifier: x/mod knows Ed25519 of notes alone.
type cosigner struct {
	name string
	id   uint32
	key  ed25519.PublicKey
}

func (c cosigner) Name() string    { return c.name }
func (c cosigner) KeyHash() uint32 { return c.id }
func (c cosigner) Verify(text, signature []byte) bool {
	if len(signature) != 8+ed25519.SignatureSize {
		return false
	}
	message := fmt.Sprintf("cosignature/v1\ntime %d\n%s", binary.BigEndian.Uint64(signature), text)
	return ed25519.Verify(c.key, []byte(message), signature[8:])
}

func verifier(text string) note.Verifier {
	if known, err := note.NewVerifier(text); err == nil {
		return known
	}
	parts := strings.SplitN(text, "+", 3)
	key, err := base64.StdEncoding.DecodeString(parts[2])
	if err != nil || len(key) != 33 || key[0] != 4 {
		panic("no key: " + text)
	}
	id := sha256.Sum256(append([]byte(parts[0]+"\n"), key...))
	return cosigner{parts[0], binary.BigEndian.Uint32(id[:4]), key[1:]}
}

// opens tells whether a note opens with a good signature of every key.
func opens(text string, keys []string) bool {
	verifiers := []note.Verifier{}
	for _, key := range keys {
		verifiers = append(verifiers, verifier(key))
	}
	opened, err := note.Open([]byte(text), note.VerifierList(verifiers...))
	return err == nil && len(opened.Sigs) == len(keys)
}

// tiles reads C2SP tlog-tiles, which have their height of 8 not in the path.
type tiles string

func (folder tiles) Height() int                          { return 8 }
func (folder tiles) SaveTiles(t []tlog.Tile, d [][]byte) {}
func (folder tiles) ReadTiles(wanted []tlog.Tile) ([][]byte, error) {
	found := [][]byte{}
	for _, tile := range wanted {
		path := "tile/" + strings.TrimPrefix(tile.Path(), "tile/8/")
		content, err := os.ReadFile(filepath.Join(string(folder), path))
		if err != nil {
			return nil, err
		}
		found = append(found, content)
	}
	return found, nil
}

func root(leaves [][]byte) tlog.Hash {
	stored := []tlog.Hash{}
	reader := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		found := []tlog.Hash{}
		for _, index := range indexes {
			found = append(found, stored[index])
		}
		return found, nil
	})
	for place, leaf := range leaves {
		made, err := tlog.StoredHashes(int64(place), leaf, reader)
		if err != nil {
			panic(err)
		}
		stored = append(stored, made...)
	}
	found, err := tlog.TreeHash(int64(len(leaves)), reader)
	if err != nil {
		panic(err)
	}
	return found
}

func main() {
	content, err := os.ReadFile(os.Args[1])
	if err != nil {
		panic(err)
	}
	var given cases
	if err := json.Unmarshal(content, &given); err != nil {
		panic(err)
	}
	said := map[string]any{}
	verdicts := []bool{}
	for _, c := range given.Inclusion {
		err := tlog.CheckRecord(hashes(c.Path), c.Size, hash(c.Root), c.Index, tlog.RecordHash(c.Leaf))
		verdicts = append(verdicts, err == nil)
	}
	said["inclusion"], verdicts = verdicts, []bool{}
	for _, c := range given.Consistency {
		err := tlog.CheckTree(hashes(c.Path), c.Size, hash(c.Root), c.Old, hash(c.OldRoot))
		verdicts = append(verdicts, err == nil)
	}
	said["consistency"], verdicts = verdicts, []bool{}
	for _, c := range given.Notes {
		verdicts = append(verdicts, opens(c.Note, c.Keys))
	}
	said["notes"], verdicts = verdicts, []bool{}
	for _, c := range given.Roots {
		found := root(c.Leaves)
		verdicts = append(verdicts, bytes.Equal(found[:], c.Root))
	}
	said["roots"] = verdicts

	// Tiles are checked by the reader against the tree's root; every record is then proved from them.
	tree := tlog.Tree{N: given.Tiles.Size, Hash: hash(given.Tiles.Root)}
	reader := tlog.TileHashReader(tree, tiles(given.Tiles.Folder))
	good := given.Tiles.Size > 0
	for place := int64(0); place < given.Tiles.Size; place++ {
		proof, err := tlog.ProveRecord(tree.N, place, reader)
		leaf := tlog.RecordHash(given.Roots[1].Leaves[place])
		good = good && err == nil && tlog.CheckRecord(proof, tree.N, tree.Hash, place, leaf) == nil
	}
	said["tiles"] = good

	// A note of theirs, for us to open.
	secret, public, err := note.GenerateKey(rand.Reader, "example.com/go")
	if err != nil {
		panic(err)
	}
	signer, err := note.NewSigner(secret)
	if err != nil {
		panic(err)
	}
	text := fmt.Sprintf("example.com/go\n%d\n%s\n", tree.N, base64.StdEncoding.EncodeToString(given.Tiles.Root))
	signed, err := note.Sign(&note.Note{Text: text}, signer)
	if err != nil {
		panic(err)
	}
	said["theirs"] = map[string]string{"key": public, "note": string(signed)}
	if err := json.NewEncoder(os.Stdout).Encode(said); err != nil {
		panic(err)
	}
}
