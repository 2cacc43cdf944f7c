"""Where a GPU is, and who holds it."""

from k8s.deploy.holders import Fleet
from tests.k8s.deploy.objects import Memory, node, pod, spec


def test_a_gpu_that_no_node_has() -> None:
    fleet = Fleet([node("a"), node("b", "nvidia-tesla-t4", 4), node("c", "nvidia-tesla-t4", 2)])
    message, _ = fleet.missing(spec("nvidia-h100-80gb")) or ("", "")
    assert message == "no node with nvidia-h100-80gb; this cluster has nvidia-l4 (1), nvidia-tesla-t4 (6)"


def test_a_cluster_without_gpus() -> None:
    bare = node("a")
    bare["metadata"]["labels"] = {}
    message, _ = Fleet([bare]).missing(spec()) or ("", "")
    assert message == "no node with nvidia-l4; this cluster has no GPU"


def test_a_node_with_the_gpu_and_the_wrong_driver() -> None:
    driver = {"cloud.google.com/gke-gpu-driver-version": "latest"}
    fleet = Fleet([node("a", **{next(iter(driver)): "default"})])
    wanted = spec()
    wanted["nodeSelector"] |= driver
    message, hint = fleet.missing(wanted) or ("", "")
    assert message == ("no node with nvidia-l4 would take it: a (lacks cloud.google.com/gke-gpu-driver-version=latest)")
    assert hint and "gpu-driver-version=latest" in hint


def test_a_node_that_is_tainted_or_not_ready() -> None:
    message, _ = Fleet([node("a")]).missing(spec(tolerations=[])) or ("", "")
    assert message.endswith("a (taint nvidia.com/gpu=present)")
    down = node("a")
    down["status"]["conditions"][0]["status"] = "Unknown"
    message, _ = Fleet([down]).missing(spec()) or ("", "")
    assert message.endswith("a (not ready)")


def test_more_gpus_than_any_node_has() -> None:
    message, _ = Fleet([node("a", count=2), node("b", count=1)]).missing(spec(count=4)) or ("", "")
    assert message == "no node has 4 nvidia-l4: the largest has 2"


def test_nothing_is_missing() -> None:
    assert Fleet([node("a")]).missing(spec()) is None
    assert Fleet([]).missing(spec(None)) is None


def test_who_holds_the_gpus() -> None:
    ending = pod("old", on="b")
    ending["metadata"]["deletionTimestamp"] = "2026-11-21T00:00:00Z"
    elsewhere = pod("t4", on="c", gpu="nvidia-tesla-t4")
    fleet = Fleet([node("a"), node("b"), node("c", "nvidia-tesla-t4")], [pod("new", on="a"), ending, elsewhere])
    assert fleet.taken(spec()) == ("waiting for a GPU: all 2 nvidia-l4 taken by models/new (1), models/old (1, ending)")
    assert fleet.taken(spec(), but=["models/new"]) is None


def test_the_only_one() -> None:
    fleet = Fleet([node("a")], [pod("first", on="a")])
    assert fleet.taken(spec()) == "waiting for a GPU: the one nvidia-l4 taken by models/first (1)"


def test_a_free_gpu_is_not_taken_and_two_halves_are_no_whole() -> None:
    assert Fleet([node("a", count=2)], [pod("first", on="a")]).taken(spec()) is None
    fleet = Fleet([node("a", count=2), node("b", count=2)], [pod("x", on="a"), pod("y", on="b")])
    assert fleet.taken(spec(count=2)) == "waiting for a GPU: all 4 nvidia-l4 taken by models/x (1), models/y (1)"


def test_it_is_read_from_the_cluster() -> None:
    cluster = Memory(node("a"), pod("holder", on="a"), pod("waiting"), pod("cpu", on="a", gpu=None))
    fleet = Fleet.read(cluster)
    assert fleet
    assert [each["metadata"]["name"] for each in fleet.pods] == ["holder"]


def test_an_account_that_may_not_list_nodes() -> None:
    cluster = Memory(node("a"))
    cluster.forbidden.add("/api/v1/nodes")
    assert Fleet.read(cluster) is None
