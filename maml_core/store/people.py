"""Who asks for something, on a lab that several people share: each changes what is their own."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Person:
    """Somebody who has logged in."""

    name: str  # what runs say of who started them: an address, or whatever the provider knows them by
    is_admin: bool = False

    def may_change(self, started_by: str) -> bool:
        """Whether what `started_by` has made is theirs to change; what nobody is named for is an admin's."""
        return self.is_admin or started_by == self.name
