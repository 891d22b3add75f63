"""A tree over page-sized runs of tokens. It only links nodes: it counts and evicts nothing.

    root ─ [system prompt, page 0] ─ [page 1] ┬ [session a, page 2] ─ [page 3 + checkpoint]
                                              └ [session b, page 2 + checkpoint]

A child is found by its page's key (`segue/api/prompt.py`), with one dictionary look-up per page.
Keys are equal if tokens and media are. A path from the root is a prefix, so a page is only found
after all the pages that it attends to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import reduce

from segue.api.prompt import PrefixName, Prompt, page_digest
from segue.api.types import PageId
from segue.cache.prefix.node import PageNode


class PrefixTree:
    def __init__(self, page_tokens: int) -> None:
        if page_tokens < 1:
            raise ValueError(f"page_tokens must be >= 1, got {page_tokens}")
        self.page_tokens = page_tokens
        self.root = PageNode(None, b"", PageId(-1), 0)
        self.changed: Callable[[PageNode], None] = lambda node: None
        """Set by `Inventory`: called for a node whose children or checkpoint have changed, and for
        one that was cut."""
        self._by_digest: dict[bytes, PageNode] = {}

    def named(self, digest: bytes) -> PageNode | None:
        """The node at the end of the prefix with this digest."""
        return self._by_digest.get(digest)

    def find(self, prefix: PrefixName) -> Prompt | None:
        """The tokens of the named prefix; None if it is not in the tree."""
        node = self._by_digest.get(prefix.digest)
        if node is None or node.num_tokens != prefix.num_tokens:
            return None
        return self.prompt(node)

    def name(self, node: PageNode, prompt: Prompt) -> PrefixName:
        """The name of all full pages of `prompt`, of which those up to `node` are here."""
        rest = prompt[node.num_tokens :]
        num_pages = len(rest) // self.page_tokens
        digest = reduce(page_digest, rest.page_keys(self.page_tokens, num_pages), node.digest)
        return PrefixName(node.num_tokens + num_pages * self.page_tokens, digest)

    def prompt(self, node: PageNode) -> Prompt:
        """From the start of the prompt to the end of the node's page."""
        keys = [above.key for above in node.upwards() if above.parent is not None]
        return Prompt.from_page_keys(keys[::-1], self.page_tokens)

    def walk(self, start: PageNode, keys: Sequence[bytes]) -> list[PageNode]:
        """The nodes below `start` along `keys`, as far as they exist."""
        nodes: list[PageNode] = []
        node: PageNode | None = start
        for key in keys:
            node = node.children.get(key) if node else None
            if node is None:
                break
            nodes.append(node)
        return nodes

    def grow(
        self, parent: PageNode, keys: Sequence[bytes], pages: Sequence[PageId]
    ) -> list[PageNode]:
        """Adds a chain of nodes below `parent`, which has no child for the first key."""
        nodes: list[PageNode] = []
        above = parent
        for key, page in zip(keys, pages, strict=True):
            node = PageNode(parent, key, page, parent.num_tokens + self.page_tokens)
            node.digest = page_digest(parent.digest, key)
            parent.children[key] = node
            self._by_digest[node.digest] = node
            nodes.append(node)
            parent = node
        if nodes:
            self.changed(above)
            self.changed(parent)
        return nodes

    def cut(self, leaf: PageNode) -> PageNode:
        """Removes a leaf, and returns its parent."""
        parent = leaf.parent
        assert parent is not None, "the root and a removed node cannot be cut"
        assert not leaf.children, "a child without its parent could not be found"
        del parent.children[leaf.key]
        del self._by_digest[leaf.digest]
        leaf.parent = None
        self.changed(leaf)
        self.changed(parent)
        return parent

    def nodes(self) -> Iterator[PageNode]:
        """All nodes but the root, parents before children."""
        stack = list(self.root.children.values())
        while stack:
            node = stack.pop()
            yield node
            stack.extend(node.children.values())
