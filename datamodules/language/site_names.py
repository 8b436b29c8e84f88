"""Names of sites and their checks. Standard library only, so that a mistake is reported at once."""

from typing import Any, get_args

from datamodules.stream.ranges import Site, Sites

SITES = get_args(Site)


def check_site(site: Any, key: str = "site.name") -> None:
    """Raise ValueError, listing the valid names, when a site is not one of `SITES`.

    >>> check_site("mlp_out")
    """
    if site not in SITES:
        raise ValueError(f"{key}: expected one of {', '.join(SITES)}; got {site!r}")


def check_sites(name: Site, also: Sites) -> None:
    """Check the site to read, and the list of sites to cache with it.

    Raises:
        ValueError: one of them is not in `SITES`, or `also` is not a list.

    Example:
        >>> check_sites("resid_post", ["mlp_out"])
    """
    if isinstance(also, str) or also is None:
        raise ValueError(f"site.also: expected a list of sites, got {also!r}; write site.also=[z,mlp_out]")
    check_site(name)
    for other in also:
        check_site(other, "site.also")
