// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {AgentRegistry} from "../src/AgentRegistry.sol";
import {PolicyRegistry, Version} from "../src/PolicyRegistry.sol";
import {SaeAnchor} from "../src/SaeAnchor.sol";
import {Base} from "./Base.sol";

/// @dev Anchors whatever it is told, and keeps what it saw anchored.
contract AnchorHandler is Base {
    SaeAnchor public immutable anchor;
    bytes32[] public seen;
    mapping(bytes32 => uint64) public timeOf;
    uint64[] public sizes;
    mapping(uint64 => bytes32) public rootOf;

    constructor() {
        anchor = new SaeAnchor(TIMELOCK, MULTISIG, GUARDIAN, ANCHORER);
    }

    function envelope(uint8 hash, bytes32 parent, bytes32 agent) external {
        SaeAnchor.Sae[] memory saes = new SaeAnchor.Sae[](1);
        bytes32 h = bytes32(uint256(hash) + 1);
        saes[0] = SaeAnchor.Sae(h, parent, agent == 0 ? bytes32("agent") : agent);
        vm.prank(ANCHORER);
        anchor.anchorSaes(saes);
        if (timeOf[h] == 0) {
            timeOf[h] = anchor.anchoredAt(h);
            seen.push(h);
        }
        vm.warp(block.timestamp + 7);
    }

    function checkpoint(uint8 grow, bytes32 root, bool honest) external {
        SaeAnchor.Head memory head = anchor.headOf("log");
        if (root == 0) root = "root";
        uint64 size = head.size + grow;
        vm.prank(ANCHORER);
        try anchor.anchorCheckpoint("log", size, root, honest ? head.root : root) {
            if (rootOf[size] == 0) {
                rootOf[size] = root;
                sizes.push(size);
            }
        } catch {}
    }

    function equivocate(uint8 which, bytes32 root) external {
        if (sizes.length == 0) return;
        vm.prank(ANCHORER);
        try anchor.reportEquivocation("log", sizes[which % sizes.length], root, "evidence") {} catch {}
    }

    function daalog(bytes32 hash) external {
        if (hash == 0) return;
        vm.prank(ANCHORER);
        anchor.logAction("agent", hash, "");
    }

    function removeAnchorer() external {
        vm.prank(GUARDIAN);
        anchor.removeAnchorer(ANCHORER);
        vm.prank(TIMELOCK);
        anchor.addAnchorer(ANCHORER);
    }

    function counts() external view returns (uint256 envelopes, uint256 checkpoints) {
        return (seen.length, sizes.length);
    }
}

/// @dev Whatever is called, by whomever: what is anchored stays as it is.
contract AnchorInvariants is Base {
    AnchorHandler internal handler;

    function setUp() public {
        handler = new AnchorHandler();
    }

    function targetContracts() external view returns (address[] memory list) {
        list = new address[](1);
        list[0] = address(handler);
    }

    function invariant_no_function_changes_or_removes_an_anchor() public view {
        (uint256 envelopes, uint256 checkpoints) = handler.counts();
        SaeAnchor anchor = handler.anchor();
        for (uint256 i = 0; i < envelopes; ++i) {
            bytes32 h = handler.seen(i);
            eq(anchor.anchoredAt(h), handler.timeOf(h));
        }
        for (uint256 i = 0; i < checkpoints; ++i) {
            uint64 size = handler.sizes(i);
            eq(anchor.rootAt("log", size), handler.rootOf(size));
        }
    }

    function invariant_the_head_is_the_largest_anchored_size() public view {
        (, uint256 checkpoints) = handler.counts();
        SaeAnchor.Head memory head = handler.anchor().headOf("log");
        for (uint256 i = 0; i < checkpoints; ++i) {
            ok(handler.sizes(i) <= head.size, "no larger one");
        }
        if (checkpoints != 0) eq(handler.rootOf(head.size), head.root);
    }
}

/// @dev A guardian who calls everything there is, and owners who publish.
contract GuardianHandler is Base {
    AgentRegistry public immutable agents;
    PolicyRegistry public immutable policies;
    bytes32 public constant KEY = "agent";
    bytes32 public constant POLICY = "policy";
    uint8 public highest = 1;
    mapping(uint64 => Version) private _published;
    uint64 public versions;

    constructor() {
        agents = new AgentRegistry(TIMELOCK, MULTISIG, GUARDIAN);
        policies = new PolicyRegistry(TIMELOCK, MULTISIG, GUARDIAN);
        vm.prank(TIMELOCK);
        agents.register(KEY, POLICY, 0, 0, 0);
        publish("catalog");
    }

    function guardianOnAgents(uint8 what, bytes32 a, bytes32 b) external {
        bytes[6] memory calls = [
            abi.encodeCall(agents.pause, (KEY)),
            abi.encodeCall(agents.revoke, (KEY, a)),
            abi.encodeCall(agents.reinstate, (KEY)),
            abi.encodeCall(agents.update, (KEY, a, b, 0, 0)),
            abi.encodeCall(agents.register, (a, b, 0, 0, 0)),
            abi.encodeCall(agents.setGuardian, (address(uint160(uint256(a)))))
        ];
        vm.prank(GUARDIAN);
        (bool done,) = address(agents).call(calls[what % 6]);
        done;
        uint8 status = agents.agentOf(KEY).status;
        if (status > highest) highest = status;
    }

    function guardianOnPolicies(uint8 what, bytes32 a) external {
        address code = address(agents);
        bytes[6] memory calls = [
            abi.encodeCall(policies.pause, (POLICY)),
            abi.encodeCall(policies.pauseAll, ()),
            abi.encodeCall(policies.unpause, (POLICY)),
            abi.encodeCall(policies.unpauseAll, ()),
            abi.encodeCall(policies.publish, (POLICY, code, code.codehash, a)),
            abi.encodeCall(policies.pinCatalog, (POLICY, a))
        ];
        vm.prank(GUARDIAN);
        (bool done,) = address(policies).call(calls[what % 6]);
        done;
    }

    function publish(bytes32 catalog) public {
        if (catalog == 0) return;
        address code = address(agents);
        vm.prank(TIMELOCK);
        policies.publish(POLICY, code, code.codehash, catalog);
        versions += 1;
        _published[versions] = Version(code, uint64(block.timestamp), code.codehash, catalog);
        vm.warp(block.timestamp + 3);
    }

    function published(uint64 version) external view returns (Version memory) {
        return _published[version];
    }
}

contract GuardianInvariants is Base {
    GuardianHandler internal handler;

    function setUp() public {
        vm.warp(1000);
        handler = new GuardianHandler();
    }

    function targetContracts() external view returns (address[] memory list) {
        list = new address[](1);
        list[0] = address(handler);
    }

    function invariant_the_guardian_only_revokes_or_pauses() public view {
        AgentRegistry agents = handler.agents();
        // The owners do nothing to the agent: its status only falls, and what it is bound to stays.
        eq(agents.agentOf(handler.KEY()).status, handler.highest());
        eq(agents.agentOf(handler.KEY()).policyId, handler.POLICY());
        eq(agents.guardian(), GUARDIAN);
        eq(handler.policies().policyOf(handler.POLICY()).version, handler.versions());
    }

    function invariant_a_version_never_changes() public view {
        PolicyRegistry policies = handler.policies();
        for (uint64 v = 1; v <= handler.versions(); ++v) {
            Version memory now_ = policies.versionOf(handler.POLICY(), v);
            eq(keccak256(abi.encode(now_)), keccak256(abi.encode(handler.published(v))));
        }
        eq(policies.versionOf(handler.POLICY(), handler.versions() + 1).policy, address(0));
    }
}
